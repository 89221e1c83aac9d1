"""A diagnosis in words: makes evidence, remedies and notes from values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from halfstep.diagnosis.events import (
    SIXTEEN_BIT,
    Epsilon,
    Given,
    NumberKind,
    OptimizerEps,
    Origin,
    Sum,
    Update,
)
from halfstep.diagnosis.model import (
    Change,
    Collapse,
    CompiledRun,
    Diagnosis,
    Evidence,
    Finding,
    Looked,
    Note,
    NotFinite,
    Operands,
    Remedy,
    Vanished,
)
from halfstep.precisions.formats import get_scalar
from halfstep.precisions.loss_scale import scale_words
from halfstep.words.module_names import shown
from halfstep.words.plural import count
from halfstep.words.ran import words as ran_words

#: the heading of each kind of finding
KIND_WORDS: Mapping[str, str] = {
    "overflow": "overflow",
    "underflow": "underflow",
    "nan_source": "NaN begins",
    "domain_error": "outside its domain",
    "epsilon_lost": "epsilon lost",
    "lost_update": "lost updates",
    "saturated_sum": "a sum that stops growing",
    "scale_collapse": "loss scale collapses",
}

_OPERANDS: Mapping[NumberKind, str] = {
    "inputs": "the inputs of its products", "weights": "its weights", "gradients": "its gradients",
}  # fmt: skip

#: what to change; ``{figure}``, ``{names}`` and ``{recipe}`` are the remedy's
_CHANGES: Mapping[Change, str] = {
    "keep": "keep {names} in fp32",
    "fp32": "use fp32",
    "fp32_beyond_bf16": "use fp32: bf16 ends at {bf16_largest:.4g}, below {figure:.4g}",
    "range_of_fp32": "use {recipe}, which has the range of fp32",
    "block_scales": "use {recipe}: {block_scales}",
    "weights_in_fp32": "use {recipe}: weights and optimizer state stay in fp32",
    "own_weights_in_fp32": "hold the weights in fp32: load them so, or model.float()",
    "dynamic_scale": "use a dynamic loss scale",
    "loss_scale": "use a loss scale of {scale}",
    "clean_data": "clean the data: look for NaN and infinities before they reach the model",
    "look_at_given": "look for NaN in the inputs of this operation, targets included",
    "find_cause": "find out why this result is not finite: no precision fixes it",
    "find_gradients_cause": "find out why this gradient is not finite",
    "guard": "keep its argument away from zero with a constant that {names} can hold, {figure:.0e} or more",
    "clamp": "scale or clamp the inputs, so that the result stays below {figure:.5g}",
    "mask": "mask with a large finite number instead of an infinity, or leave no row wholly masked",
    "larger_epsilon": "use {figure:.0e} or more",
    "larger_optimizer_eps": "give {names} eps={figure:.0e} or more",
    "learning_rate": "use a larger learning rate",
    "sum_in_fp32": "sum in fp32: .float(), or dtype=torch.float32",
    "even_sizes": "bring the summands to a similar size, by a norm before this layer",
    "not_compiled": "leave {part} out of compiling (`torch.compiler.disable`), and report it to PyTorch",
    "other_backend": "try another backend (`backend='aot_eager'`) to see whether the code generator is to blame",
}
_BLOCK_SCALES = {
    "mxfp8": "a scale for every 32 numbers",
    "nvfp4": "a scale for every 16 numbers, which fits closely",
}


def worded(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis with its words."""
    notes = _notes(diagnosis.looked, diagnosis.steps or 0)
    if diagnosis.compiled is not None:
        notes.append(compiled_words(diagnosis.compiled))
    return replace(diagnosis, findings=tuple(map(worded_finding, diagnosis.findings)), notes=tuple(notes))


def worded_finding(finding: Finding) -> Finding:
    """A finding with its evidence and its remedies in words."""
    ways = tuple(
        replace(way, text=change_words(way), outcome=outcome_words(way, finding)) for way in finding.remedies
    )
    evidence = finding.evidence if finding.seen is None else evidence_words(finding.seen, finding.kind)
    return replace(finding, evidence=evidence, remedies=ways, remedy=ways[0].text if ways else "")


def change_words(way: Remedy) -> str:
    """What a remedy changes: ``keep blocks.3.attn in fp32``."""
    if way.change is None:
        return way.text
    return _CHANGES[way.change].format(
        names=" and ".join(map(shown, way.names)),
        part=shown("".join(way.names), "the part"),
        figure=way.figure,
        scale=scale_words(way.figure),
        recipe=way.recipe,
        block_scales=_BLOCK_SCALES.get(way.recipe or "", ""),
        bf16_largest=get_scalar("bf16").largest,
    )


def outcome_words(way: Remedy, finding: Finding) -> str:
    """What happened when a remedy was tried; empty if it was not tried."""
    tried = way.tried
    if tried is None:
        return way.outcome
    if tried.found is None:
        return (
            tried.reason or f"the finding is gone; loss {tried.loss:.4g} after {count(tried.steps, 'step')}"
        )
    if (tried.found.kind, tried.found.where) == (finding.kind, finding.where):
        return f"the same finding is left: {worded_finding(tried.found).evidence}"
    return f"{tried.found.kind} in {shown(tried.found.where)} instead"


def evidence_words(seen: Evidence, kind: str) -> str:
    """What was seen, in figures."""
    match seen:
        case NotFinite():
            return _not_finite(seen)
        case Collapse(lowest, skipped, last):
            said = f"the loss scale fell to {scale_words(lowest)} and the last {skipped} steps were skipped"
            return said + (f"; at the last of them {_gradient(last)}" if last else "")
        case Vanished():
            which = "weight gradients" if seen.kind == "weight_gradients" else "gradients"
            return (
                f"{seen.share:.0%} of its {which} (by magnitude; the largest is {seen.largest:.2g}) is flushed to zero "
                f"by {seen.format} under the loss scale {scale_words(seen.scale)}"
            )
        case Operands():
            return f"{seen.share:.0%} of {_OPERANDS[seen.kind]} {_operands(seen, kind)}"
        case OptimizerEps():
            after = ": the step divides by zero where the second moment is zero" if seen.divided else ""
            return f"eps={seen.value:g} is 0 in {seen.dtype}, the format of the optimizer's state{after}"
        case Update():
            return (
                f"{seen.lost / seen.due:.0%} of {seen.parameter} did not move in a step although it had a gradient: "
                f"the update is below half the last digit of a {seen.dtype} weight"
            )
        case Given(count=None):
            return (
                "this operation was given numbers that are not finite, and no operation made them: they came with the "
                "data, in any precision"
            )
        case Given():
            bad = f"{seen.count} of {seen.elements} inputs not finite"
            return f"the model was called with {bad}: the data's fault, in any precision"
        case Epsilon():
            smallest = get_scalar(seen.dtype).smallest_subnormal
            return f"{seen.value:g} is 0 in {seen.dtype}, whose smallest number is {smallest:.2g}: it guards nothing"
        case Sum():
            return f"{_sum(seen)}; what is added is below half the last digit of {seen.dtype}"
        case CompiledRun():
            began = (
                f"{(seen.only_compiled or 0) + 1} on, and began {seen.began or f'in {shown(seen.module)}'}"
            )
            return (
                f"only in compiled code: the loss is not finite from step {began}; the same program, run eagerly in "
                "this precision, has a finite loss there"
            )


def _not_finite(seen: NotFinite) -> str:
    origin, turned, lost = seen.origin, seen.turned, seen.lost
    said = [_gradient(origin) if seen.of_scale else _result(origin)]
    if seen.of_scale and origin.scale != 1:
        said = [f"{said[0]} under the loss scale {scale_words(origin.scale)}"]
    if seen.hidden:
        said.append("the loss stayed finite, so nothing shows it")
    if turned is not None:
        said.append(f"{turned.operation} in {shown(turned.module)} made NaN of it")
    if lost is not None:
        said.append(f"{lost.value:g}, added to keep it from zero, is itself 0 in {lost.dtype}")
    if seen.in_fp32_too:
        said.append("not precision's fault: fp32 does the same")
    return "; ".join(said)


def _gradient(origin: Origin) -> str:
    return f"the gradient of {origin.of} {_result(origin)}"


def _result(origin: Origin) -> str:
    """What an operation made, and from what."""
    if origin.domain is not None:
        of = f" (the gradient of {origin.of})" if origin.direction == "backward" and origin.of else ""
        return f"{origin.domain.words} in {origin.domain.count} places{of}"
    end = get_scalar(origin.dtype).largest if origin.dtype in SIXTEEN_BIT else math.inf
    if origin.exact is not None and origin.exact > end:
        return f"reaches {origin.exact:.3g}; {origin.dtype} ends at {end:.5g}"
    bad = [f"{origin.nan} NaN"] * bool(origin.nan) + [f"{origin.infinite} infinities"] * bool(origin.infinite)
    largest = max((operand.get("largest") or 0.0 for operand in origin.inputs), default=0.0)
    given = "inputs with infinities in them" if origin.from_infinity else f"finite inputs up to {largest:.3g}"
    return f"{' and '.join(bad)} in {origin.elements} results, from {given}"


def _operands(seen: Operands, kind: str) -> str:
    numbers = f"{seen.hit:,} of {seen.nonzero:,} numbers"
    if kind == "overflow":
        return f"is cut off: {numbers} lie beyond the largest that {seen.format} has at their scale"
    per = "by magnitude" if seen.kind == "gradients" else "the mean over vectors, by magnitude"
    return f"is flushed to zero by {seen.format} ({per}; {numbers})"


def _sum(seen: Sum) -> str:
    if seen.additions is not None:
        return f"after {seen.additions} additions the sum stands still at {seen.reached:.4g}"
    off, exact = seen.relative_error or 0.0, seen.exact or 0.0
    return f"off by {off:.0%}: reaches {seen.reached:.4g}, in fp32 {exact:.4g}"


def _graphs(run: CompiledRun) -> str:
    """Which compiled graph differs from its eager run, or that none does."""
    odd = next((graph for graph in run.graphs if graph.graph == run.graph_differs), None)
    if odd is None:
        which = (
            "the compiled graph" if len(run.graphs) == 1 else f"each of the {len(run.graphs)} compiled graphs"
        )
        return f"on the same inputs {which} gives what it gives eagerly, to within rounding"
    of = f", which holds {shown(odd.module)}" if odd.module else ""
    to = f" to {shown(odd.last)}" if odd.last and odd.last != odd.module else ""
    off = f"by {odd.error:.1e} of its largest result" if math.isfinite(odd.error) else "in what is finite"
    return (
        f"on the same inputs compiled graph {odd.graph} of {len(run.graphs)}{of}{to}, differs from itself run eagerly "
        f"{off}"
    )


def compiled_words(run: CompiledRun) -> str:
    """How a compiled run compares with the eager one."""
    notes = ["it was run once more, compiled and unwatched"]
    if run.first is None:
        notes.append(f"which made no loss to compare ({run.reason or run.status})")
    else:
        a, b = run.first
        verdict = "they differ" if run.differs else "the same to within rounding"
        notes.append(f"on the same first step the loss is {a:.6g} compiled and {b:.6g} eagerly: {verdict}")
        if run.differs and math.isfinite(a) and math.isfinite(b):
            notes.append("compiled code draws other random numbers (dropout), which is a difference, too")
    if run.graphs:
        notes.append(_graphs(run))
    if run.only_eager is not None:
        notes.append(
            f"eagerly alone the loss is not finite at step {run.only_eager + 1}: the findings are of that"
        )
    return "; ".join(notes)


_NOTES: Mapping[Note, str] = {
    "in_part": "of tensors above 65,536 numbers, evenly spaced blocks were counted",
    "eager": "the compiled model ran eagerly: inside compiled code no operation can be seen",
    "emulated": "operands of emulated products were counted as they are rounded, with their scales",
    "no_reference": "fp32 made no step, so whether it has the same faults is not known",
}


def _notes(looked: Looked, steps: int) -> list[str]:
    """How the numbers were counted."""
    counted = ", ".join([str(step + 1) for step in looked.steps[:8]] + ["…"] * (len(looked.steps) > 8))
    notes = [f"numbers were counted in {len(looked.steps)} of {steps} steps ({counted})"]
    notes += [_NOTES[note] for note in looked.notes]
    if looked.reference_ran is not None and looked.reference_ran.otherwise:
        ran = ran_words(looked.reference_ran)
        notes.append(
            f"the reference was asked for in fp32 and ran as {ran}: what it does says nothing of fp32"
        )
    return [*notes, *looked.warnings]
