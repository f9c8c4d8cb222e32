"""The words and tables of a report, section by section, made from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nextlens.analyses.displays.layers import short_site

Numbers = Mapping[str, Any]
MEGA = 1e6


@dataclass(frozen=True)
class Table:
    """Rows whose first cell is their name."""

    caption: str
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] | None = None


@dataclass(frozen=True)
class Section:
    """A heading and what stands beneath it."""

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    points: Sequence[str] = ()
    figures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    note: str = ""
    left_out: str = ""


def sections_of(numbers: Numbers) -> list[Section]:
    """The sections in their order."""
    return [
        _model(numbers),
        _loss(numbers),
        _surprisal(numbers),
        _lens(numbers),
        _residual(numbers),
        _heads(numbers),
        _ahead(numbers),
        _beliefs(numbers),
        _caution(numbers),
    ]


def head_of(numbers: Numbers) -> list[tuple[str, str, str]]:
    """The four numbers at the top: name, value, and what stands beside it."""
    loss, model = numbers["loss"], numbers["model"]
    counted = loss["nulls_bits_per_token"]["unigram, counted in the other blocks"]["value"]
    found = [
        ("Parameters", f"{model['parameters']:,}", model["architecture"]),
        ("Loss", f"{loss['bits_per_token']['value']:.3f} bits per token", f"unigram null {counted:.2f}"),
    ]
    if loss["bits_per_byte"] is not None:
        found.append(("Loss", f"{loss['bits_per_byte']['value']:.3f} bits per byte", _ends(loss["bits_per_byte"])))
    if loss["optimum_bits_per_token"] is not None:
        least = loss["optimum_bits_per_token"]["value"]
        found.append(("Least possible", f"{least:.3f} bits per token", "an observer who knows the process"))
    if "left_out" not in numbers["heads"]:
        best = numbers["heads"]["best"]["prefix matching"][0]
        beside = (
            f"layer {best['layer']}, head {best['head']}; chance {numbers['heads']['chance']['prefix matching']:.3f}"
        )
        found.append(("Highest prefix matching", f"{best['value']:.2f}", beside))
    if "left_out" not in numbers["beliefs"]:
        r2 = numbers["beliefs"]["r2"]
        twin = f"untrained twin {r2['untrained twin'][-1]:.3f}"
        found.append(("R² of the belief", f"{r2['probe'][-1]:.3f}", twin))
    return found


def _model(numbers: Numbers) -> Section:
    model, text = numbers["model"], numbers["text"]
    shown = {
        **{name: value for name, value in model.items() if name not in ("name", "weights_bytes")},
        "size of the weights": f"{model['weights_bytes'] / MEGA:,.1f} MB",
    }
    rows = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in shown.items()]
    every = f", one every {text['stride']:,}" if text["windows"] > text["sequences"] else ""
    read = [
        ("source", text["source"]),
        *[(name, f"{text[name]:,}") for name in ("characters", "bytes", "tokens", "tokens_read") if name in text],
        ("predictions", f"{text['predictions']:,} in {text['sequences']:,} sequence{'s' * (text['sequences'] > 1)}"),
        ("windows", f"{text['windows']:,} of {text['window']:,} tokens{every}"),
        ("blocks", f"{text['blocks']} of about {text['rows_of_a_block']:.0f} predictions"),
        ("vocabulary", str(text["vocabulary"])),
    ]
    read = [(name.replace("_", " "), value) for name, value in read]
    return Section("model", "The model and the text", tables=[Table("The model", rows), Table("The text", read)])


def _loss(numbers: Numbers) -> Section:
    loss = numbers["loss"]
    rows = [("the model, bits per token", *_cells(loss["bits_per_token"]))]
    if loss["bits_per_byte"] is not None:
        rows.append(("the model, bits per byte", *_cells(loss["bits_per_byte"])))
    rows.append(("what the model expected, bits per token", *_cells(loss["expected_by_the_model"])))
    if loss["optimum_bits_per_token"] is not None:
        rows.append(("least possible, bits per token", *_cells(loss["optimum_bits_per_token"])))
        rows.append(("excess over it, bits per token", *_cells(loss["excess_over_optimum"], digits=4)))
    for name, one in loss["nulls_bits_per_token"].items():
        rows.append((f"null: {name}, bits per token", *_cells(one)))
    note = (
        "What the model expected is the entropy of its own laws: below its loss, it is too sure of itself; above, "
        f"not sure enough. Intervals: {loss['interval']}."
    )
    return Section(
        "loss",
        "Loss",
        paragraphs=[loss["convention"]],
        tables=[Table("Loss beside its nulls", rows, ("", "mean", "95 % interval"))],
        note=note,
    )


def _surprisal(numbers: Numbers) -> Section:
    return Section("surprisal", "Surprisal", figures=("surprisal", "along_the_text"))


def _lens(numbers: Numbers) -> Section:
    lens = numbers["lens"]
    title = "Logit lens"
    if "left_out" in lens:
        return Section("lens", title, left_out=lens["left_out"])
    kl, loss = lens["kl_to_final"], lens["cross_entropy"]
    rows = [(site_name(site), *_at(kl, i), *_at(loss, i)) for i, site in enumerate(lens["sites"])]
    rows.append(("null: unigram law", f"{lens['null_kl_of_unigram']:.3f}", "", "", ""))
    columns = ("residual stream", "KL to the final law, bits", "95 % interval", "cross-entropy, bits", "95 % interval")
    return Section(
        "lens",
        title,
        paragraphs=[lens["note"]],
        figures=("lens_divergence", "lens_loss"),
        tables=[Table("Logit lens by layer", rows, columns)],
    )


def _residual(numbers: Numbers) -> Section:
    found = numbers["residual"]
    title = "Residual stream"
    if "left_out" in found:
        return Section("residual", title, left_out=found["left_out"])
    twin = found["null_untrained_twin"]
    rows = [
        (
            site_name(site),
            *_at(found["effective_rank"], i, digits=1),
            f"{found['null_columns_shuffled'][i]:.1f}",
            *([f"{twin[i]:.1f}"] if twin else []),
            str(found["dimensions_95"][i]),
            f"{found['variance'][i]:.4g}",
        )
        for i, site in enumerate(found["sites"])
    ]
    columns = (
        "residual stream",
        "effective rank",
        "95 % interval",
        "null: columns shuffled",
        *(["untrained twin"] if twin else []),
        "components for 95 % of the variance",
        "variance, squared units",
    )
    return Section(
        "residual",
        title,
        paragraphs=[found["note"]],
        figures=("spectrum", "effective_rank"),
        tables=[Table("Directions that the residual stream fills", rows, columns)],
        note=f"Intervals: {found['interval']}.",
    )


def _heads(numbers: Numbers) -> Section:
    found = numbers["heads"]
    title = "Attention heads"
    if "left_out" in found:
        return Section("heads", title, left_out=found["left_out"])
    rows = [
        (
            score,
            f"layer {one['layer']}, head {one['head']}",
            f"{one['value']:.3g}",
            f"± {one['half_interval_95']:.2g}",
            f"{found['chance'][score]:.2g}",
        )
        for score, best in found["best"].items()
        for one in best
    ]
    said = (
        f"On {found['tokens']}, {found['above_threshold']['prefix matching']} heads have a prefix-matching score of "
        f"{found['thresholds']['prefix matching']:.2g} or more (0.3, or twice chance if that is more), and may be "
        "called induction heads. A pattern says where a head looks, not what it does with what it sees: ablate it "
        "before saying that it matters."
    )
    return Section(
        "heads",
        title,
        paragraphs=[said],
        figures=("prefix_matching", "previous_token"),
        tables=[Table("The highest heads of each score", rows, ("score", "head", "score", "95 % interval", "chance"))],
        note=f"Intervals: {found['interval']}. The highest of many heads is high by selection too.",
    )


def _ahead(numbers: Numbers) -> Section:
    found = numbers["ahead"]
    title = "Tokens ahead"
    if "left_out" in found:
        return Section("ahead", title, left_out=found["left_out"])
    rows = []
    for name, scores in found["predictors"].items():
        cells = [
            ""
            if value is None
            else " ".join(_cells({"value": value, "interval_95": [scores["skill_low"][j], scores["skill_high"][j]]}))
            for j, value in enumerate(scores["skill"])
        ]
        rows.append((_predictor(name), *cells))
    hits = [
        (_predictor(name), *["" if value is None else f"{value:.3f}" for value in scores["accuracy"]])
        for name, scores in found["predictors"].items()
    ]
    hits.append(("null: the most frequent", *[f"{value:.3f}" for value in found["most_frequent_accuracy"]]))
    columns = ("predictor", *["next token" if k == 1 else f"{k} ahead" for k in found["ahead"]])
    said = (
        "Ridge probes of the residual stream for the token k places after the one just read; k = 1 is what the model "
        f"is trained to say. Classes: {found['classes']}. {found['rows']:,} rows in {found['blocks']} blocks; folds: "
        f"{found['folds']}. The score is the share of the Brier score of token frequencies that the probe removes."
    )
    return Section(
        "ahead",
        title,
        paragraphs=[said],
        figures=("tokens_ahead",),
        tables=[
            Table("Share of the unigram law's Brier score removed, with its 95 % interval", rows, columns),
            Table("Accuracy, share of rows", hits, columns),
        ],
        note=f"Intervals: {found['interval']}.",
    )


def _beliefs(numbers: Numbers) -> Section:
    found = numbers["beliefs"]
    title = "Beliefs"
    if "left_out" in found:
        return Section("beliefs", title, left_out=found["left_out"])
    r2 = found["r2"]
    rows = [(site_name(site), *[f"{values[i]:.4f}" for values in r2.values()]) for i, site in enumerate(found["sites"])]
    nulls = [(name, f"{value:.4f}") for name, value in found["nulls"].items()]
    said = (
        f"Is the belief of an ideal observer of {found['process']!r} linear in the residual stream? R² in "
        f"folds ({found['protocol'].get('folds', '')}). Read it beside its nulls, not beside 0."
    )
    return Section(
        "beliefs",
        title,
        paragraphs=[said],
        figures=("beliefs_by_site", "beliefs"),
        tables=[
            Table("R² of the belief, held out", rows, ("site", *r2)),
            Table("R² of predictors that see no activations", nulls, ("null", "R²")),
        ],
        note=f"Interval: {found['interval']}.",
    )


def _caution(numbers: Numbers) -> Section:
    cost = numbers["cost"]
    most = cost["peak_memory_bytes"]
    memory = "" if most is None else f"; peak memory of the process {most / MEGA:,.0f} MB"
    points = [
        "Not that one text speaks for all: intervals are over blocks of this text, and say nothing of others.",
        "Not that a model is better because its bits per token are fewer: that depends on its vocabulary.",
        "Not that a layer knows nothing because the lens reads nothing: the lens knows one way of reading.",
        "Not that a model uses what a probe finds, nor that a head does what it looks at: nothing here intervenes.",
        "Not that a rank counts concepts: a few features of huge variance push it down.",
    ]
    return Section(
        "caution",
        "What not to conclude",
        points=points,
        note=f"Made by nextlens {numbers['nextlens']} in {cost['cpu_seconds']:.1f} CPU seconds{memory}.",
    )


def site_name(site: str) -> str:
    """How a table calls a site of the residual stream."""
    if site.endswith("hook_resid_post"):
        return f"after block {short_site(site).split()[0]}"
    return {"blocks.0.hook_resid_pre": "before block 0", "hook_embed": "embedding"}.get(site, site)


def _predictor(name: str) -> str:
    nulls = {"last token": "null: probe of the token just read", "shuffle": "null: targets shuffled"}
    if name.startswith("untrained: "):
        return f"null: untrained twin, {site_name(name.removeprefix('untrained: '))}"
    return nulls.get(name, site_name(name))


def _cells(one: Mapping[str, Any], digits: int = 3) -> tuple[str, str]:
    return number(one["value"], digits), _ends(one, digits)


def _at(curve: Mapping[str, Any], i: int, digits: int = 3) -> tuple[str, str]:
    return _cells({"value": curve["value"][i], "interval_95": [curve["low"][i], curve["high"][i]]}, digits)


def _ends(one: Mapping[str, Any], digits: int = 3) -> str:
    spread = one["interval_95"]
    return "" if spread is None else f"[{number(spread[0], digits)}, {number(spread[1], digits)}]"


def number(value: float, digits: int = 3) -> str:
    """A number with so many decimals; a zero has no sign.

    Examples
    --------
    >>> number(-0.0001), number(-0.5, 1)
    ('0.000', '-0.5')
    """
    return f"{value:z.{digits}f}"


def summary(numbers: Numbers, page: Any) -> str:
    """A few lines for the terminal: what was read, what came out beside its nulls, and what to look at."""
    loss, text, model = numbers["loss"], numbers["text"], numbers["model"]
    lines = [
        f"{model['name']}: {model['parameters']:,} parameters, read on {text['predictions']:,} tokens",
        f"  of {text['source']}",
    ]
    rows = [("bits per token", loss["bits_per_token"]), ("bits per byte", loss["bits_per_byte"])]
    rows += [("least possible", loss["optimum_bits_per_token"])]
    rows += [(f"null: {name}", one) for name, one in loss["nulls_bits_per_token"].items()]
    lines += ["{:46s} {:>8s}  {}".format(name, *_cells(one)) for name, one in rows if one is not None]
    if "left_out" not in numbers["heads"]:
        best, chance = numbers["heads"]["best"]["prefix matching"][0], numbers["heads"]["chance"]["prefix matching"]
        where = f"layer {best['layer']}, head {best['head']}; chance {chance:.3f}"
        lines.append(f"{'highest prefix-matching score':46s} {best['value']:8.3f}  {where}")
    if "left_out" not in numbers["beliefs"]:
        r2 = numbers["beliefs"]["r2"]
        twin = f"untrained twin {r2['untrained twin'][-1]:.3f}"
        lines.append(f"{'R² of the belief at the last site':46s} {r2['probe'][-1]:8.3f}  {twin}")
    titles = {section.id: section.title.lower() for section in sections_of(numbers)}
    for key, title in titles.items():
        if "left_out" in numbers.get(key, {}):
            lines.append(f"left out: {title}: {numbers[key]['left_out']}")
    lines.append(f"look at {page}")
    return "\n".join(lines)
