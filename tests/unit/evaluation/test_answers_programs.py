"""The program in a completion: fenced, bare, in prose, hostile."""

import time

import pytest

from s2l_ray.evaluation.answers.programs import find_program, parses

CODE = "import math\nx = 3\nprint(math.sqrt(x * 12))"


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        (CODE, CODE),
        (CODE + "\n", CODE),
        ("```python\n" + CODE + "\n```", CODE),
        ("```\n" + CODE + "\n```\nThe answer is 6.", CODE),
        ("~~~py\n" + CODE + "\n~~~", CODE),
        ("Here is the program:\n```python\n" + CODE + "\n```\nIt prints 6.", CODE),
        ("```python\n" + CODE, CODE),  # the fence was never closed
        ("Here is the program:\n\n" + CODE + "\n\nIt prints the answer.", CODE + "\n"),
        ("   " + CODE.replace("\n", "\n   "), CODE),  # indented throughout
        (CODE + "\n\n### Instruction:\nAnother one\n\n### Response:\nprint(7)", CODE),
        (CODE.replace("\n", "\r\n"), CODE),
        ("```python\nx = 3\n```\nNow print it:\n```python\nprint(x * 2)\n```", "x = 3\nprint(x * 2)"),
        ("```python\nprint(1)\n```\nThat was wrong. Better:\n```python\ny = 2\nprint(y)\n```", "y = 2\nprint(y)"),
        ("```json\n{}\n```\n```python\nprint(5)\n```", "print(5)"),
        ("def solution():\n    return 5", "def solution():\n    return 5"),
        ("from sympy import *\nprint(solve(x - 1))", "from sympy import *\nprint(solve(x - 1))"),
        ("print(1", "print(1"),  # refused by the sandbox as a syntax error, with the reason
    ],
)
def test_programs(completion, program):
    assert find_program(completion) == program


SHORT = "n = 4\nprint(n + 9)"


@pytest.mark.parametrize("opening", ["```python", "````py", "~~~", "~~~~python3", "``` python", "```Python code"])
@pytest.mark.parametrize("before", ["", "Here it is:\n\n", "\ufeff"])
def test_fences_of_any_length_closed_in_any_way(opening, before):
    fence = opening[: max(opening.rfind("`"), opening.rfind("~")) + 1]
    for closing in (
        f"\n{fence}",
        fence,
        f"\n{fence}\nIt prints 13.",
        f"\n{fence}`\n",
        "",
        "\n\nIt prints 13, as asked.",
    ):
        if "~" in fence and closing.endswith("`\n"):
            continue
        program = find_program(f"{before}{opening}\n{SHORT}{closing}")
        assert program is not None
        assert program.strip() == SHORT, (opening, closing)


@pytest.mark.parametrize(
    "output", ["```\n13\n```", "```\n13 apples are left\n```", "```output\n13\n```", "Output:\n\n~~~\n13.0\n~~~"]
)
def test_what_a_program_is_said_to_print_is_no_part_of_it(output):
    assert find_program(f"```python\n{SHORT}\n```\n{output}\nThe answer is 13.") == SHORT


@pytest.mark.parametrize(
    "completion",
    [
        ">>> n = 4\n>>> print(n + 9)\n13",
        "```python\n>>> n = 4\n>>> print(n + 9)\n13\n```",
        "```python n = 4\nprint(n + 9)\n```",
        "\u200bn = 4\nprint(n + 9)",
        "n = 4\nprint(n\u00a0+\u00a09)",
    ],
)
def test_prompts_invisible_characters_and_code_beside_the_fence(completion):
    assert find_program(completion) == SHORT


def test_a_block_in_an_interpreters_session_keeps_its_indentation():
    assert find_program(">>> for k in (1,):\n...     print(k)\n...\n1") == "for k in (1,):\n    print(k)"
    assert find_program("`print(8)`") == "print(8)"


@pytest.mark.parametrize(
    "completion",
    ["", "   \n", "The answer is 5.", "5", "She has 3 + 4 = 7 eggs, so the answer is 7.", "x", "print(1)\x00"],
)
def test_texts_without_a_program(completion):
    assert find_program(completion) is None


@pytest.mark.parametrize(
    "text",
    [
        "(" * 40_000 + "print(1)",
        "print(" + "-" * 40_000 + "1)",
        "print(" + "+1" * 20_000 + ")",
        "x = 1\n" * 8_000 + "print(x) and then prose",
        "```python\n" * 4_000,
        "print(1)" * 10_000,
        "print('\ud800')",
        "```\n" + "[" * 40_000,
        "\t" * 40_000 + "print(1)",
    ],
)
def test_hostile_texts(text):
    start = time.process_time()
    find_program(text)
    assert time.process_time() - start < 3


def test_nothing_is_compiled_or_run():
    """Constant folding alone could take indefinitely; parsing does not fold."""
    start = time.process_time()
    assert parses("x = 9 ** 9 ** 9 ** 9\nprint('a' * 10 ** 12)")
    assert time.process_time() - start < 1
