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
