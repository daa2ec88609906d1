"""The section “What can it do?”."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from s2l_ray.reporting.charts import tasks as charts
from s2l_ray.reporting.charts.tasks import Block, Line
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_tasks import Judged, TaskDifference, TaskMetric, TaskScore
from s2l_ray.reporting.intervals import Estimate
from s2l_ray.reporting.numbers import task_distance, task_figure, task_signed
from s2l_ray.reporting.parts import Drawing, Figure, Section
from s2l_ray.reporting.sections.task_tables import (
    YARDSTICKS,
    differences_table,
    groups_table,
    level_of,
    overlap_table,
    scores_table,
    shares_table,
    titles_of,
)
from s2l_ray.reporting.sentences import counted
from s2l_ray.text.display import capitalised

_MAX_LINES = 26
"""Maximum number of lines in a picture; further lines go into another one next to it."""
_MAX_VALUE = 28
"""Maximum length of a group's name above its lines (characters)."""
_MEAN = "Mean over tasks"


def tasks_section(facts: Facts, draw: Drawing) -> Section | None:
    """Answers to test questions; None if none were asked."""
    judged = facts.judged
    if judged is None:
        return None
    several = judged.num_seeds > 1
    seeds = (
        f"over questions and {judged.num_seeds} seeds" if several
        else "over questions; one seed, so the spread over seeds is unknown"
    )  # fmt: skip
    how = (
        "The models answered test questions, and a rule scored their answers. Lines are "
        f"{level_of(judged)} intervals {seeds}. A difference counts only if its interval excludes zero and it is "
        "significant after Holm’s correction over the tasks."
    )
    how = " ".join([how, *(f"{capitalised(note)}." for note in judged.notes)])
    figures = [*_score_figures(judged, draw), *_difference_figures(judged, draw), *_overlap_figures(judged, draw)]
    figures += [*_group_figures(judged, draw), *_share_figures(judged)]
    return Section("tasks", "What can it do?", how, figures)


def _metrics(judged: Judged) -> dict[str, TaskMetric]:
    return {metric.key: metric for metric in judged.metrics}


def _line(judged: Judged, model: str, told: Estimate, metric: TaskMetric, where: str, num: int) -> Line:
    names = {m.label: m.name for m in judged.models} | YARDSTICKS
    text = task_figure(told.value, metric.unit)
    between = "no interval" if told.low is None or told.high is None else (
        f"{level_of(judged)} {task_figure(told.low, metric.unit)} to {task_figure(told.high, metric.unit)}"
    )  # fmt: skip
    return Line(model, names[model], told, text, f"{names[model]}, {where}: {text}, {between}; {num:,} questions")


def _score_figures(judged: Judged, draw: Drawing) -> Iterator[Figure]:
    """One figure per metric: one panel for the mean and each task, one line per model, trivial summaries below."""
    titles = titles_of(judged)
    for metric in judged.metrics:
        if not metric.is_compared:
            continue
        of = [s for s in judged.scores if s.metric == metric.key and not s.part]
        tasks = [task for task in ("", *titles) if any(s.task == task for s in of)]
        svgs, panels = [], []
        for task in tasks:
            title = titles.get(task, _MEAN)
            lines = [_line(judged, s.model, s.estimate, metric, title, s.num_questions) for s in of if s.task == task]
            svgs.append(draw.svg(charts.figures(judged, metric, [("", lines)]), f"{metric.label}: {title}"))
            panels.append(title)
        heading = f"{capitalised(metric.label)} by task"
        yield Figure(heading, svgs, _leading(judged, metric, of), scores_table(judged, metric), panels=panels)


def _leading(judged: Judged, metric: TaskMetric, of: Sequence[TaskScore]) -> str:
    """The highest value for each task, whether or not it differs significantly from the others."""
    names, titles = {m.label: m.name for m in judged.models}, titles_of(judged)
    said = []
    for task in [task for task in ("", *titles) if any(s.task == task for s in of)]:
        mine = [s for s in of if s.task == task and s.model in names]
        if len(mine) < 2:
            continue
        best = max(mine, key=lambda s: s.estimate.value)
        where = titles.get(task, "mean")
        told = task_figure(best.estimate.value, metric.unit)
        trivial = max((s for s in of if s.task == task and s.model in YARDSTICKS), key=lambda s: s.estimate.value,
                      default=None)  # fmt: skip
        beside = ""
        if trivial is not None and trivial.estimate.value >= best.estimate.value:
            beside = f", less than a trivial summary ({task_figure(trivial.estimate.value, metric.unit)})"
        said.append(f"{where}: {names[best.model]} ({told}){beside}")
    if not said:
        return "No two models answered the same task, so there is nothing to compare."
    return f"Highest values, significant or not: {'; '.join(said)}."


def _difference_figures(judged: Judged, draw: Drawing) -> Iterator[Figure]:
    names, titles, metrics = {m.label: m.name for m in judged.models}, titles_of(judged), _metrics(judged)
    for baselines, against in _baselines(judged):
        found = [d for d in judged.differences if d.baseline in baselines]
        svgs, panels = [], []
        for metric in [m for m in judged.metrics if any(d.metric == m.key for d in found)]:
            blocks: list[Block] = []
            for task in ("", *titles):
                mine = [d for d in found if (d.metric, d.task) == (metric.key, task)]
                if mine:
                    blocks.append((titles.get(task, _MEAN), [_difference_line(d, names, metric) for d in mine]))
            for part in _pictures(blocks):
                label = f"{metric.label}: difference to {against}"
                svgs.append(draw.svg(charts.differences(judged, metric, part), label))
                panels.append(capitalised(metric.label))
        title = f"Difference to {against}, paired by question"
        yield Figure(title, svgs, _differences_caption(found, judged), differences_table(found, judged, metrics),
                     panels=panels if len(set(panels)) > 1 else [])  # fmt: skip


def _baselines(judged: Judged) -> list[tuple[list[str], str]]:
    """(baselines, what they are called): the random choices together, each compared with those of its own size."""
    names = {m.label: m.name for m in judged.models}
    found = list(dict.fromkeys(d.baseline for d in judged.differences))
    random = [label for label in found if label.startswith("random-")]
    called = [([label], f"the {names[label]}" if label == "full" else _model(names[label])) for label in found
              if label not in random]  # fmt: skip
    if random:
        called.append((random, names[random[0]] if len(random) == 1 else "the random subset of the same size"))
    return called


def _model(name: str) -> str:
    return "the model before fine-tuning" if name == "not fine-tuned" else name


def _difference_line(d: TaskDifference, names: dict[str, str], metric: TaskMetric) -> Line:
    told = task_signed(d.estimate.value, metric.unit)
    return Line(d.model, names[d.model], d.estimate, d.verdict,
                f"{names[d.model]} minus {names[d.baseline]}: {told}, {d.verdict}")  # fmt: skip


def _pictures(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks in pictures of at most _MAX_LINES lines, or one block."""
    pictures: list[list[Block]] = []
    room = 0
    for block in blocks:
        size = len(block[1]) + 1
        if not pictures or size > room:
            pictures.append([])
            room = _MAX_LINES
        pictures[-1].append(block)
        room -= size
    return pictures


def _differences_caption(found: Sequence[TaskDifference], judged: Judged) -> str:
    caption = counted(d.verdict for d in found)
    least = [d for d in found if d.detectable is not None]
    if least:
        worst = max(least, key=lambda d: d.detectable or 0.0)
        caption += (
            f" With this many questions, a difference of less than "
            f"{task_distance(worst.detectable or 0.0, 'share')} may go undetected "
            f"({titles_of(judged)[worst.task]}, which has the largest such difference)."
        )
    if 1 < judged.num_seeds < _FEW_SEEDS:
        caption += f" Intervals over only {judged.num_seeds} seeds are too narrow, as always with so few."
    return caption


_FEW_SEEDS = 5


def _overlap_figures(judged: Judged, draw: Drawing) -> Iterator[Figure]:
    """Results on questions that are in the corpus, and on the others."""
    metrics, titles = _metrics(judged), titles_of(judged)
    parted = [s for s in judged.scores if s.part in ("clean", "contaminated")]
    if not parted:
        return
    svgs, panels, said = [], [], []
    for task in judged.tasks:
        metric = metrics[task.metric]
        mine = [s for s in judged.scores if (s.task, s.metric) == (task.name, metric.key) and s.model not in YARDSTICKS]
        blocks: list[Block] = []
        for part, name in (("", "all questions"), ("clean", "not in the corpus"), ("contaminated", "in the corpus")):
            of = [s for s in mine if s.part == part]
            lines = [_line(judged, s.model, s.estimate, metric, name, s.num_questions) for s in of]
            if lines:
                blocks.append((f"{name} ({of[0].num_questions:,})", lines))
        if len(blocks) > 1:
            svgs.append(draw.svg(charts.figures(judged, metric, blocks), f"{task.title} by overlap with the corpus"))
            panels.append(task.title)
            share = next(s for s in judged.shares if s.task == task.name).contaminated
            said.append(f"{task_figure(share, 'share')} of {titles[task.name]}")
    caption = f"In the corpus, word for word or with half of their word sequences: {', '.join(said)}."
    yield Figure("Questions that are in the corpus", svgs, caption, overlap_table(judged, metrics), panels=panels)


def _group_figures(judged: Judged, draw: Drawing) -> Iterator[Figure]:
    """Results by topic, level, type or source: one picture per task and column."""
    metric = _metrics(judged).get("correct")
    titles = titles_of(judged)
    for task, column in dict.fromkeys((g.task, g.column) for g in judged.groups) if metric else ():
        assert metric is not None
        of = [g for g in judged.groups if (g.task, g.column) == (task, column)]
        blocks: list[Block] = []
        for value in dict.fromkeys(g.value for g in of):
            mine = [g for g in of if g.value == value]
            lines = [_line(judged, g.model, g.estimate, metric, value, g.num_questions) for g in mine]
            few = ", few" if mine[0].is_small else ""
            blocks.append((f"{_shortened(value)} ({mine[0].num_questions:,}{few})", lines))
        title = f"{titles[task]} by {column}"
        svgs = [draw.svg(charts.figures(judged, metric, part), title) for part in _pictures(blocks)]
        smaller = judged.smaller_groups.get(f"{task} {column}", 0)
        caption = f"Numbers of questions are in brackets. {'First seed only. ' if judged.num_seeds > 1 else ''}"
        caption += f"{smaller} smaller groups are not shown. " if smaller else ""
        caption += "Intervals of groups of fewer than 20 questions say almost nothing." if any(
            g.is_small for g in of) else ""  # fmt: skip
        yield Figure(title, svgs, caption.strip(), groups_table(of, judged))


def _shortened(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[: _MAX_VALUE - 1].rstrip()}…"


def _share_figures(judged: Judged) -> Iterator[Figure]:
    """The table of the answers' outcomes."""
    names, titles = {m.label: m.name for m in judged.models}, titles_of(judged)
    most = max(judged.shares, key=lambda s: s.truncated)
    caption = "No answer was cut off at the limit of new tokens."
    if most.truncated:
        caption = (
            f"Largest share of answers cut off at the limit of new tokens: {task_figure(most.truncated, 'share')} "
            f"({names[most.model]}, {titles[most.task]})."
        )
    yield Figure("Outcome of all answers", [], caption, shares_table(judged))
