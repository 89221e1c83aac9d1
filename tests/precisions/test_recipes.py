from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstep.errors import UsageError
from halfstep.precisions.loss_scale import DynamicScale, NoScale, StaticScale
from halfstep.precisions.recipes import PRECISIONS, STATES, SYNONYMS, Recipe, parse, parse_list

powers = st.integers(-10, 24).map(lambda k: 2.0**k)
dynamic = st.builds(
    DynamicScale, value=st.integers(0, 24).map(lambda k: 2.0**k), interval=st.integers(1, 10_000)
)
patterns = st.text(st.sampled_from("abcxyz0189._*?[]"), min_size=1, max_size=8)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    name = draw(st.sampled_from(PRECISIONS))
    if name == "as-is":
        return Recipe(name)
    default = DynamicScale() if name.startswith("fp16") else NoScale()
    scaled = (
        st.just(default)
        if name in ("bf16-lean", "bf16-sr")
        else st.one_of(st.just(default), st.builds(StaticScale, powers), dynamic)
    )
    scale = draw(scaled)
    sixteen = name.startswith(("bf16", "fp16"))
    keep = draw(st.lists(patterns, max_size=3).map(tuple)) if sixteen else ()
    states = draw(st.sampled_from(STATES)) if name in ("bf16-lean", "bf16-sr") else "fp32"
    return Recipe(name, scale, keep, draw(st.booleans()), states)


@given(recipes())
def test_a_recipes_string_is_its_grammar(recipe: Recipe) -> None:
    assert parse(str(recipe)) == recipe


@pytest.mark.parametrize(("synonym", "name"), SYNONYMS.items())
def test_synonyms(synonym: str, name: str) -> None:
    assert parse(synonym) == parse(name)


def test_the_table_of_precisions() -> None:
    table = {p: (parse(p).weights, parse(p).compute, parse(p).guards) for p in PRECISIONS}
    assert table == {
        "as-is": ("as-is", "as-is", False),
        "fp32": ("fp32", "fp32", False),
        "tf32": ("fp32", "tf32", False),
        "bf16": ("fp32", "bf16", False),
        "fp16": ("fp32", "fp16", True),
        "bf16-true": ("bf16", "bf16", False),
        "bf16-lean": ("bf16", "bf16", False),
        "bf16-sr": ("bf16", "bf16", False),
        "fp16-true": ("fp16", "fp16", True),
        "fp8": ("fp32", "fp8_e4m3", False),
        "fp8-e4m3": ("fp32", "fp8_e4m3", False),
        "fp8-e5m2": ("fp32", "fp8_e5m2", False),
        "mxfp8": ("fp32", "mxfp8_e4m3", False),
        "mxfp6": ("fp32", "mxfp6_e2m3", False),
        "mxfp4": ("fp32", "mxfp4", False),
        "nvfp4": ("fp32", "nvfp4", False),
    }
    other = {p: parse(p).gradients for p in PRECISIONS if parse(p).gradients != parse(p).compute}
    assert other == {"fp8": "fp8_e5m2", "mxfp6": "mxfp6_e3m2"}


def test_options() -> None:
    assert parse("fp16:loss_scale=1024").loss_scale == StaticScale(1024.0)
    assert parse("bf16:keep=*.norm,lm_head").keep == ("*.norm", "lm_head")
    assert parse("bf16:skip_nonfinite").guards
    assert parse("fp16:init_scale=8:growth_interval=10").loss_scale == DynamicScale(8.0, interval=10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "fp17",
            "Unknown precision 'fp17'; choose one of as-is, fp32, tf32, bf16, fp16, bf16-true, bf16-lean, bf16-sr, fp16-true, fp8, "
            "fp8-e4m3, fp8-e5m2, mxfp8, mxfp6, mxfp4, nvfp4 (synonyms: 32, 32-true, float32, tensorfloat32, bf16-mixed, mixed_bfloat16, 16, 16-mixed, mixed_float16), with "
            "options, for example fp16:loss_scale=1024 or bf16:keep=*.norm,lm_head.",
        ),
        (
            "fp16:scale=2",
            "Unknown option 'scale' in precision 'fp16:scale=2'; allowed are loss_scale, init_scale, growth_interval, "
            "keep, skip_nonfinite, states, for example fp16:loss_scale=1024 or bf16:keep=*.norm,lm_head.",
        ),
        ("fp16:loss_scale=1000", "loss_scale is 1000; it must be a power of two, for example 512 or 1024."),
        (
            "fp16:loss_scale=big",
            "Option 'loss_scale' in 'fp16:loss_scale=big' is 'big'; it must be a power of two such as 1024, or "
            "'dynamic'.",
        ),
        ("fp16:loss_scale=-4", "loss_scale is -4; it must be a positive power of two, for example 1024."),
        ("fp16:loss_scale=nan", "loss_scale is nan; it must be a positive power of two, for example 1024."),
        ("fp16:loss_scale=2:loss_scale=2", "Precision 'fp16:loss_scale=2:loss_scale=2' gives the option 'loss_scale' twice; give it once."),
        ("as-is:skip_nonfinite", "Precision 'as-is' takes no options, but 'as-is:skip_nonfinite' gives 'skip_nonfinite'; remove it."),
        ("fp32:keep=a", "Option 'keep' in 'fp32:keep=a' needs a 16-bit precision: fp32 already keeps fp32."),
        ("fp8:keep=a", "Option 'keep' in 'fp8:keep=a' needs bf16 or fp16: fp8 is emulated for every product."),
        (
            "bf16-lean:loss_scale=8",
            "Option 'loss_scale' in 'bf16-lean:loss_scale=8' scales the loss, which bf16-lean never does: bf16 has the range of fp32; remove it.",
        ),
        (
            "bf16:states=bf16",
            "Option 'states' in 'bf16:states=bf16' needs a precision under which halfstep leads the optimizer; write bf16-lean:states=bf16 or bf16-sr:states=bf16.",
        ),
        ("bf16-sr:states=fp8", "Option 'states' in 'bf16-sr:states=fp8' is 'fp8'; it must be fp32, bf16 or 8bit."),
        ("bf16:keep=a,,b", "Option 'keep' in 'bf16:keep=a,,b' has an empty pattern; write keep=*.norm,lm_head."),
        ("fp16:growth_interval=0", "growth_interval is 0; it must be 1 step or more."),
        (
            "bf16:init_scale=2",
            "Option 'init_scale' in 'bf16:init_scale=2' needs a dynamic loss scale; write "
            "bf16:loss_scale=dynamic:init_scale=….",
        ),
    ],
)  # fmt: skip
def test_mistakes_get_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value) == sentence


def test_lists() -> None:
    listed = parse_list("fp32, bf16:keep=*.norm,lm_head,fp16:loss_scale=8")
    assert list(map(str, listed)) == ["fp32", "bf16:keep=*.norm,lm_head", "fp16:loss_scale=8"]
    with pytest.raises(UsageError, match="is listed twice"):
        parse_list("fp32,32")
    with pytest.raises(UsageError, match="Unknown precision 'lm_head'"):
        parse_list("fp32,lm_head")
