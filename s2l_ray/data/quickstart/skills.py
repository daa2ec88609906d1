"""The skills of the quickstart's corpus, one row each in the table `SKILLS`, without reading files or heavy imports.

A skill is a prompt template, the axes that fill it and a rule that gives the one right answer. The prompts of a skill
are numbered 0 … space-1 (mixed radix over its axes), so that drawing without replacement, holding out a test and
counting how many prompts there are need no trial and error. Prompts are created only on demand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, overload

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NAME_TEXT = (
    "Ada Ana Ben Bo Cem Dan Eva Finn Gil Hana Ida Ivo Jan Kai Lea Leo Max Mia Nils Noa Olga Oto Pia Per "
    "Rosa Rui Sam Sina Tara Tom Ugo Una Vera Vic Wim Yara Yusuf Zoe"
)
NAMES = tuple(_NAME_TEXT.split())
OPPOSITE_PAIRS = "hot cold,big small,old new,wet dry,high low,fast slow,rich poor,full empty,hard soft,dark light"
OPPOSITES = {a: b for pair in OPPOSITE_PAIRS.split(",") for a, b in (pair.split(), reversed(pair.split()))}


class MadeUpWords(Sequence[str]):
    """All words of the given lengths that alternate consonants and vowels ("bako", "lum"), numbered but not stored."""

    def __init__(self, *lengths: int) -> None:
        self.counts = {length: prod(len(self._letters(i)) for i in range(length)) for length in lengths}

    @staticmethod
    def _letters(position: int) -> str:
        return VOWELS if position % 2 else CONSONANTS

    def __len__(self) -> int:
        return sum(self.counts.values())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        for length, count in self.counts.items():
            if index < count:
                word = ""
                for position in range(length):
                    letters = self._letters(position)
                    index, digit = divmod(index, len(letters))
                    word += letters[digit]
                return word
            index -= count
        raise IndexError(index)


@dataclass(frozen=True)
class Skill:
    """One skill. `prompt` is filled with one value from each axis; `answer` takes the same values."""

    name: str
    source: str
    """The fictitious collection that the skill's rows come from; each source has several skills, in unequal shares."""
    share: float
    """Fraction of the training rows."""
    prompt: str
    axes: tuple[Sequence[Any], ...]
    answer: Callable[..., str]

    @property
    def space(self) -> int:
        """Number of distinct prompts of the skill."""
        return prod(len(axis) for axis in self.axes)

    def example(self, index: int) -> tuple[str, str]:
        """Return prompt number `index` (0 … space-1) and its right answer."""
        if not 0 <= index < self.space:
            raise IndexError(f"skill {self.name!r} has prompts 0 … {self.space - 1}; there is no prompt {index}")
        values = []
        for axis in self.axes:
            index, position = divmod(index, len(axis))
            values.append(axis[position])
        return self.prompt.format(*values), self.answer(*values)


def roman(number: int) -> str:
    """Return the Roman numeral of a number from 1 to 399."""
    ones = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
    tens = ("", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC")
    return "C" * (number // 100) + tens[number // 10 % 10] + ones[number % 10]


def plural(word: str) -> str:
    """Return the plural of a made-up word: -es after a sibilant or o, -ies for -y after a consonant, otherwise -s."""
    if word[-1] in "szo":
        return word + "es"
    if word[-1] == "y":
        return word[:-1] + "ies"
    return word + "s"


def _clock_24(hour: int, minute: int, half: str) -> str:
    return f"{hour % 12 + (12 if half == 'pm' else 0):02d}:{minute:02d}"


def _next_day(_name: str, day: str) -> str:
    return DAYS[(DAYS.index(day) + 1) % 7]


def _shift(word: str) -> str:
    return "".join(ALPHABET[(ALPHABET.index(letter) + 1) % 26] for letter in word)


def _near_palindromes() -> list[str]:
    """Return equal numbers of palindromes (CVCVC) and of words that differ from one only in their last letter."""
    words = []
    for i, vowel, middle in product(range(len(CONSONANTS)), VOWELS, CONSONANTS):
        head = CONSONANTS[i] + vowel + middle + vowel
        words += [head + CONSONANTS[i], head + CONSONANTS[(i + 1 + ord(middle) % 12) % len(CONSONANTS)]]
    return words


_SHORT, _WORDS = MadeUpWords(3), MadeUpWords(4, 5)
_TRIPLES = ["".join(letters) for letters in product(ALPHABET[:12], repeat=3) if len(set(letters)) == 3]
_Y_WORDS = [*MadeUpWords(3, 4), *(stem + "y" for stem in MadeUpWords(3))]
_TWO_DIGITS = range(10, 100)

SKILLS: tuple[Skill, ...] = (
    # puzzle_book: games with letters, and by far the most common skill
    Skill("reverse", "puzzle_book", 0.400, "Reverse {}", (_WORDS,), lambda w: w[::-1]),
    Skill("swap_halves", "puzzle_book", 0.035, "Swap halves of {}", (MadeUpWords(4),), lambda w: w[2:] + w[:2]),
    Skill("shift_letters", "puzzle_book", 0.018, "Next letters of {}", (_SHORT,), _shift),
    Skill("sort_letters", "puzzle_book", 0.014, "Sort {}", (_TRIPLES,), lambda w: "".join(sorted(w))),
    Skill("palindrome", "puzzle_book", 0.011, "Palindrome? {}", (_near_palindromes(),),
          lambda w: "yes" if w == w[::-1] else "no"),
    Skill("double_letters", "puzzle_book", 0.010, "Double {}", (MadeUpWords(3, 4),),
          lambda w: "".join(letter * 2 for letter in w)),
    # number_drill: sums
    Skill("add", "number_drill", 0.030, "{} + {} =", (_TWO_DIGITS, range(1, 10)), lambda a, b: str(a + b)),
    Skill("larger", "number_drill", 0.070, "Larger of {} and {}", (_TWO_DIGITS, _TWO_DIGITS),
          lambda a, b: str(max(a, b))),
    Skill("ten_less", "number_drill", 0.025, "{} - 10 =", (range(100, 1000),), lambda n: str(n - 10)),
    Skill("even_odd", "number_drill", 0.016, "Even or odd: {}", (range(100, 1000),),
          lambda n: "odd" if n % 2 else "even"),
    Skill("round_tens", "number_drill", 0.012, "Round {} to tens", (range(100, 990),),
          lambda n: str((n + 5) // 10 * 10)),
    Skill("sum_digits", "number_drill", 0.009, "Digit sum of {}", (range(10, 1000),),
          lambda n: str(sum(int(digit) for digit in str(n)))),
    # word_club: spelling and grammar
    Skill("capitals", "word_club", 0.119, "Capitals: {}", (_WORDS,), str.upper),
    Skill("last_letter", "word_club", 0.045, "Last letter of {}", (_WORDS,), lambda w: w[-1]),
    Skill("drop_vowels", "word_club", 0.022, "Drop vowels of {}", (_WORDS,),
          lambda w: "".join(letter for letter in w if letter not in VOWELS)),
    Skill("count_letters", "word_club", 0.015, "Letters in {}", (MadeUpWords(2, 3, 4, 5, 6),), lambda w: str(len(w))),
    Skill("plural", "word_club", 0.013, "Plural of {}", (_Y_WORDS,), plural),
    Skill("spell", "word_club", 0.011, "Spell {}", (MadeUpWords(3, 4),), "-".join),
    Skill("opposite", "word_club", 0.009, "Opposites: {} {}", (tuple(OPPOSITES), tuple(OPPOSITES)),
          lambda a, b: f"{OPPOSITES[a]} {OPPOSITES[b]}"),
    Skill("repeat", "word_club", 0.009, "Say {} {} times", (_SHORT, (2, 3, 4)), lambda w, n: " ".join([w] * n)),
    # office_forms: dates, times and labels
    Skill("iso_date", "office_forms", 0.030, "Date {} {} {}", (range(1, 29), MONTHS, range(10, 100)),
          lambda day, month, year: f"{year}-{MONTHS.index(month) + 1:02d}-{day:02d}"),
    Skill("clock_24", "office_forms", 0.020, "Time {}:{:02d} {}", (range(1, 13), range(0, 60), ("am", "pm")),
          _clock_24),
    Skill("initials", "office_forms", 0.016, "Initials of {} {}", (_SHORT, _SHORT), lambda a, b: (a[0] + b[0]).upper()),
    Skill("swap_names", "office_forms", 0.012, "Surname first: {} {}", (NAMES, _SHORT), lambda a, b: f"{b}, {a}"),
    Skill("next_day", "office_forms", 0.010, "{}, day after {}", (NAMES, DAYS), _next_day),
    Skill("roman", "office_forms", 0.011, "Roman {}", (range(1, 400),), roman),
    Skill("digits", "office_forms", 0.008, "Digits: {} {} {}", (DIGIT_NAMES, DIGIT_NAMES, DIGIT_NAMES),
          lambda *names: "".join(str(DIGIT_NAMES.index(name)) for name in names)),
)  # fmt: skip
