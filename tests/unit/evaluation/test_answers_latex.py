"""Kinds of answers in LaTeX, and how programs print the same, each with several instances."""

from __future__ import annotations

import pytest

from s2l_ray.evaluation.answers.grading import grade


def asked(*_: str) -> str:
    return "unreadable"


def right(gold: str, answer: str, form: str = "box") -> bool:
    text = f"Hence $\\boxed{{{answer}}}$." if form == "box" else answer
    return grade("math", gold, text, asked, form="output" if form == "output" else "cot").correct  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5-t", "-t + 5"),
        ("t^3-4t^2", "-4t^2 + t^3"),
        ("-n^4+n", "n - n^4"),
        ("pq+8", "8 + pq"),
        ("pq+8", "pq + 8"),
        ("7-bc", "-bc + 7"),
        ("xyz-2", "xyz - 2"),
    ],
)
def test_letters_beside_operators_are_no_words(gold, answer):
    assert right(gold, answer)
    for part in ("5", "8", "7", "-2", "n", "t^3", "-4t^2"):
        assert not right(part, answer), part


@pytest.mark.parametrize("answer", ["9 in", "9 cm", "9 square feet", "9 km/h", "9 kg"])
def test_units_beside_numbers_are_words(answer):
    assert right("9", answer)


def test_spaces_between_digits_mean_something():
    for gold, answer in (("13/5", "1 3/5"), ("21/2", "2 1/2"), ("12", "1 2"), ("1 3/5", "13/5")):
        for form in ("box", "output"):
            assert not right(gold, answer, form), (gold, answer, form)
    assert right("8/5", "1 3/5")


@pytest.mark.parametrize("answer", ["4-6\\mathrm{i}", "-6\\mathrm{i}+4", "4 - \\mathrm{i}\\cdot 6", "4-6\\rm{i}"])
def test_upright_constants_are_no_units(answer):
    assert right("4-6i", answer)
    assert not right("4", answer)
    assert not right("4+6i", answer)
    assert right("3e", "3\\mathrm{e}")


@pytest.mark.parametrize(
    "emphasis",
    ["\\underline{{{}}}", "\\boldsymbol{{{}}}", "\\textcolor{{blue}}{{{}}}", "{{\\color{{red}}{}}}", "\\bm{{{}}}"],
)
def test_emphasis_changes_nothing(emphasis):
    assert right("38", emphasis.format("38"))
    assert right("\\frac{4}{9}", emphasis.format("\\frac{8}{18}"))
    assert not right("38", emphasis.format("83"))
    assert right("38", f"The answer is {emphasis.format('38')}.", "cot")


@pytest.mark.parametrize(
    ("gold", "digits", "base"), [("1221_4", "1221", 4), ("505_8", "505", 8), ("20012_3", "20012", 3)]
)
def test_bases_in_words_brackets_and_small_digits(gold, digits, base):
    name = {3: "three", 4: "four", 8: "eight"}[base]
    written = [
        "{d}_{{({b})}}",
        "{d}\\text{{ (base {b})}}",
        "{d}_{{\\text{{base {b}}}}}",
        "{d}\\text{{ in base {b}}}",
        "{d} \\text{{ base }} {b}",
        "{d}_{{\\text{{{n}}}}}",
        "{d}\\text{{ (base {n})}}",
    ]
    for form in written:
        answer = form.format(d=digits, b=base, n=name)
        assert right(gold, answer), answer
        assert not right(gold.replace(digits, digits[::-1] + "1"), answer), answer
        assert not right(gold.replace(f"_{base}", "_9"), answer), answer
        assert not right(digits, answer), answer
    for text in (
        f"The answer is {digits} (base {base}).",
        f"The answer is ${digits}$ in base ${base}$.",
        f"The answer is {digits} base {base}.",
    ):
        assert right(gold, text, "cot"), text
    assert right(gold, f"{digits}{chr(0x2080 + base)}")
    assert right("45", "45\\text{ (base 10)}")
    assert right("45", "The answer is 45 (base 4 and height 7).", "cot")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("(2,-9)", "x=2,y=-9"),
        ("(2,-9)", "y=-9,\\ x=2"),
        ("(2,-9)", "x = 2 \\text{ and } y = -9"),
        ("(2,-9)", "\\langle 2, -9 \\rangle"),
        ("(2,-9)", "Q(2,-9)"),
        ("(2,-9)", "Q = (2, -9)"),
        ("(1,5,6)", "p=1,q=5,r=6"),
        ("(1,5,6)", "\\langle 1,5,6\\rangle"),
    ],
)
def test_points_by_coordinates_names_and_angle_brackets(gold, answer):
    assert right(gold, answer)
    assert not right(gold.replace(",", ",1", 1), answer)
    assert not right(f"({','.join(reversed(gold.strip('()').split(',')))})", answer)


def test_points_at_the_end_of_prose_and_printed_one_a_line():
    assert right("(2,-9)", "The vertex lies at (2, -9).", "cot")
    assert not right("-9", "The vertex lies at (2, -9).", "cot")
    assert right("(1,5,6)", "1\n5\n6", "output")
    assert right("(1,5,6)", "Point(1, 5, 6)", "output")
    assert not right("(1,5,6)", "6\n5\n1", "output")


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        ("(-\\infty,6)", ["\\{t : t<6\\}", "\\{t \\mid t < 6\\}", "\\{t\\in\\mathbb{R} : t<6\\}"]),
        (
            "[-4,9)",
            ["\\{x \\mid -4\\le x<9\\}", "x\\ge -4\\text{ and }x<9", "x<9, x\\geq -4", "-4 \\le x \\text{ and } x<9"],
        ),
        (
            "(-\\infty,-5]\\cup[0,\\infty)",
            ["x\\le -5\\text{ or }x\\ge 0", "x\\ge0, x\\le-5", "\\{x: x\\le-5 \\text{ or } x\\ge0\\}"],
        ),
    ],
)
def test_intervals_by_conditions(gold, answers):
    for answer in answers:
        assert right(gold, answer), answer
        for other in ("(-\\infty,6]", "(-4,9)", "[-4,9]", "[-5,0]", "(-\\infty,-5)\\cup(0,\\infty)", "(6,\\infty)"):
            assert not right(other, answer), (other, answer)


ROWS = "\\begin{pmatrix} 4 & -1 \\\\ 0 & 7 \\end{pmatrix}"


@pytest.mark.parametrize(
    "answer",
    [
        "\\left(\\begin{array}{rr} 4 & -1 \\\\ 0 & 7 \\end{array}\\right)",
        "\\left[\\begin{array}{cc} 4 & -1 \\\\ 0 & 7 \\end{array}\\right]",
    ],
)
def test_matrices_as_arrays(answer):
    assert right(ROWS, answer)
    assert not right(ROWS, answer.replace("7", "-7"))
    assert not right(ROWS, answer.replace("4 & -1", "-1 & 4"))


def test_determinants_are_no_matrices_and_products_go_to_the_library():
    assert not right(ROWS, ROWS.replace("pmatrix", "vmatrix"))
    made = grade("math", ROWS, "\\boxed{2" + ROWS + "}", lambda *_: "equal")
    assert made.correct


@pytest.mark.parametrize(
    "printed",
    [
        "[[ 4 -1]\n [ 0  7]]",
        "[[ 4. -1.]\n [ 0.  7.]]",
        "array([[ 4, -1],\n       [ 0,  7]])",
        "array([[ 4., -1.],\n       [ 0.,  7.]])",
        "Matrix([\n[4, -1],\n[0, 7]])",
    ],
)
def test_matrices_as_numpy_and_sympy_print_them(printed):
    assert right(ROWS, printed, "output")
    assert not right(ROWS, printed.replace("7", "6"), "output")


@pytest.mark.parametrize(
    ("gold", "printed"),
    [
        ("\\frac{4}{7}", "The probability is 4/7"),
        ("\\frac{4}{7}", "Probability: 4/7"),
        ("5\\sqrt{3}", "The area is 5*sqrt(3)"),
        ("5\\sqrt{3}", "5*sqrt(3) square units"),
        ("64^\\circ", "64 degrees"),
        ("64^\\circ", "64.0°"),
        ("\\$3.60", "The price is $3.60"),
        ("-8,2", "The roots are -8 and 2"),
        ("-8,2", "The roots are [-8, 2]"),
        ("-8,2", "x = 2, x = -8"),
        ("-8,2", "x = 2 or x = -8"),
        ("-8,2", "{-8: 1, 2: 3}"),
        ("\\frac{1}{4}", "mpf('0.25')"),
        ("-8,2", "[np.float64(-8.0), np.float64(2.0)]"),
        ("y = 4x + 1", "Eq(y, 4*x + 1)"),
        ("x^2 - 6x", "Poly(x**2 - 6*x, x, domain='ZZ')"),
        ("2^{2003}", str(2**2003)),
    ],
)
def test_printed_answers_with_words_and_as_libraries_print_them(gold, printed):
    assert right(gold, printed, "output")
    for other in ("\\frac{3}{7}", "5\\sqrt{2}", "46", "-8", "2,8", "y = 4x - 1", "x^2+6x", "2^{2002}"):
        assert not right(other, printed, "output"), other


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("\\textbf{(C)}\\ 48", "C"),
        ("\\text{Option C}", "C"),
        ("\\text{C. }48", "C"),
        ("\\text{(C) none}", "C"),
        ("\\mathbf{C}", "C"),
    ],
)
def test_letters_of_options_with_what_they_stand_for(answer, letter):
    for gold in "ABCD":
        assert right(f"\\text{{{gold}}}", answer) is (gold == letter), gold
    assert not right("\\text{C}", "The graph is B", "output")
    assert right("\\text{B}", "The graph is B", "output")


def test_words_may_end_with_a_full_stop_and_curves_have_two_names():
    assert right("\\text{Thursday}", "\\text{Thursday}.")
    assert not right("\\text{Thursday}", "\\text{Tuesday}.")
    assert right("y = 5x - 2", "g(x) = 5x-2")
    assert not right("y = 5x - 2", "g(x) = 2x-5")
    assert not right("y = 5x - 2", "x = 5y-2")
