"""``halfstep formats`` as a user runs it: table, values, JSON, bad values, and no framework imported."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from halfstep.cli.formats import formats, parse_value
from halfstep.errors import UsageError
from halfstep.precisions.encoding import decode
from halfstep.precisions.formats import FORMATS, get_scalar


def run(*arguments: str, columns: int = 160) -> str:
    result = CliRunner().invoke(formats, list(arguments), env={"COLUMNS": str(columns), "NO_COLOR": "1"})
    assert result.exception is None, result.exception
    return result.output


def line(text: str, name: str) -> list[str]:
    return next(row.split() for row in text.splitlines() if row.startswith(name + " "))


def test_the_table_has_a_row_a_format() -> None:
    text = run()
    for name in FORMATS:
        line(text, name)
    assert line(text, "fp16")[:9] == ["fp16", "16", "5", "11", "65504", "2^-14", "2^-24", "2^-11", "3"]
    assert "bf16-lean stores a weight as bf16 and a 16-bit remainder: together fp32, bit for bit." in text
    assert line(text, "nvfp4")[:6] == ["nvfp4", "4.5", "16", "fp4_e2m1", "fp8_e4m3", "fp32"]


@pytest.mark.parametrize("columns", [200, 100, 80, 60, 44])
def test_no_line_is_wider_than_the_terminal_and_every_row_stays_whole(columns: int) -> None:
    for text in (run(columns=columns), run("0.1", "-65520", "nan", columns=columns)):
        assert max(len(row) for row in text.splitlines()) <= columns
        for name in FORMATS:
            assert len(line(text, name)) >= 2


def test_what_a_value_becomes() -> None:
    text = run("0.1")
    assert line(text, "fp16") == ["fp16", "0.0999755859", "-0.00024", "rounded", "0", "01011", "1001100110"]
    assert line(text, "fp4_e2m1") == ["fp4_e2m1", "0", "-1", "flushed", "to", "zero", "0", "00", "0"]
    text = run("65520")
    assert line(text, "fp16") == ["fp16", "inf", "overflow", "0", "11111", "0000000000"]
    assert line(text, "fp8_e4m3")[:4] == ["fp8_e4m3", "448", "-0.99", "overflow"]
    assert line(run("1e-5"), "fp16")[3] == "subnormal"
    assert line(run("3"), "mxfp4") == ["mxfp4", "3", "0", "exact", "2^-1", "0", "11", "1"]


def test_negative_values_are_not_options() -> None:
    assert line(run("-0.1"), "fp16")[1] == "-0.0999755859"
    assert line(run("-inf"), "fp16")[1] == "-inf"
    assert line(run("-0"), "fp8_e4m3") == ["fp8_e4m3", "-0", "exact", "1", "0000", "000"]


def test_json_agrees_with_the_bits(tmp_path: Path) -> None:
    run("0.1", "-65520", "nan", "1e400", "--json", str(tmp_path / "f.json"))
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["schema"] == 1
    assert [row["name"] for row in found["formats"]] == list(FORMATS)
    assert [value["given"] for value in found["values"]] == ["0.1", "-65520", "nan", "1e400"]
    for value in found["values"]:
        for result in value["results"]:
            if result["scale"] is None and result["code"] is not None:
                number = decode(result["code"], get_scalar(result["format"]))
                assert str(float(result["value"])) == str(number)
    assert json.loads(run("0.1", "--json", "-"))["values"][0]["results"][4]["value"] == 0.0999755859375


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", Fraction(1, 10)), ("1/3", Fraction(1, 3)), ("-2^-24", -Fraction(1, 2**24)), ("2**10", 1024), ("1e-8", Fraction(1, 10**8)),
     ("0x1.8p-3", Fraction(3, 16)), ("-0X1P4", -16), ("1_000", 1000), ("+2^3", 8), ("inf", math.inf), ("-Infinity", -math.inf)],
)  # fmt: skip
def test_values_are_read_exactly(text: str, value: Fraction | float) -> None:
    assert parse_value(text) == value


@given(x=st.floats(allow_nan=False))
def test_every_float_is_read_back(x: float) -> None:
    assert parse_value(x.hex()) == x
    got = parse_value(repr(x))  # the shortest decimal that rounds to x, so not x itself
    assert float(got) == x
    assert math.copysign(1, got) == math.copysign(1, x)


@pytest.mark.parametrize(
    "text", ["abc", "", "1/0", "--bad", "1.2.3", "0x", "2^", "e5", "infx", "0x1p9999999", "nano"]
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_value(text)
    assert str(caught.value) == f"{text!r} is not a number; give a decimal, 1/3, 2^-24, 0x1.8p-3, inf or nan."


@pytest.mark.parametrize("text", ["1e99999", "1e-99999", "2^9999", "2^-9999", "1e-1600"])
def test_what_is_too_far_from_one(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_value(text)
    assert str(caught.value) == f"{text!r} is too far from 1; give a number between 2^-5000 and 2^5000."


def test_as_a_user_runs_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "halfstep", "formats"]
    bad = subprocess.run([*command, "0.1", "abc"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert (
        bad.stderr == "halfstep: 'abc' is not a number; give a decimal, 1/3, 2^-24, 0x1.8p-3, inf or nan.\n"
    )
    unwritable = subprocess.run(
        [*command, "--json", str(tmp_path / "no" / "f.json")], capture_output=True, text=True, check=False
    )
    assert unwritable.returncode == 2
    assert unwritable.stderr.count("\n") == 1


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from halfstep.cli.formats import formats; formats(['0.1'], standalone_mode=False);"
        "assert not {'torch', 'numpy', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
