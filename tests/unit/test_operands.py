"""Where the arguments of USDT probes lie: what compilers write is understood, anything else is refused."""

from __future__ import annotations

import pytest

from agentd.calls.compile import REGISTERS, reading, source
from agentd.calls.fetchers import lying
from agentd.calls.operands import PARAMETERS, Operand, operands, parameter
from agentd.policy.ir import CallPoint, TextKind


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8@%rbx", Operand("bx")),
        ("-4@%ebp", Operand("bp", 4, True)),
        ("4@%r8d", Operand("r8", 4)),
        ("1@%dil", Operand("di", 1)),
        ("2@%ax", Operand("ax", 2)),
        ("1@%al", Operand("ax", 1)),
        ("-4@$-7", Operand("", 4, True, offset=-7)),
        ("8@$0x10", Operand("", offset=16)),
        ("8@-24(%rbp)", Operand("bp", memory=True, offset=-24)),
        ("8@(%r12)", Operand("r12", memory=True)),
        ("-2@8(%rsp,%rcx,4)", Operand("sp", 2, True, True, 8, "cx", 4)),
        ("8@(%rax,%rdx)", Operand("ax", memory=True, added="dx")),
    ],
)
def test_what_compilers_write_is_understood(text: str, wanted: Operand) -> None:
    """Registers of each width, numbers, and memory with and without an index."""
    assert operands(text) == (wanted,)
    assert operands(f"8@%rdi {text}") == (Operand("di"), wanted)


@pytest.mark.parametrize(
    "text",
    [
        "8@name(%rip)", "8@-8(%rip)", "8@%rip", "8@%fs:8", "8@%xmm0", "8f@%rax", "3@%rax", "%rax", "8@", "8@%ah",
        "8@%eax;exit()", "8@%rax)", "8@-9999999999(%rbp)", "8@$99999999999999999999", "8@(%rax,%rdx,3)", "8@%r16",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    """What no program can look at, what is malformed, and what would be other code."""
    with pytest.raises(ValueError, match="argument of the probe"):
        operands(text)


def test_what_is_compiled_is_made_of_known_words() -> None:
    """A register that isn't one is no code; each operand becomes the C that reads it."""
    assert set(PARAMETERS) < set(REGISTERS)
    assert reading("text", parameter(2)._asdict()) == "u64 text = (u64)ctx->si;"
    assert "ctx->sp + 0xfffffffffffffff8ull + ctx->cx * 4ull" in reading(
        "most", Operand("sp", 2, True, True, -8, "cx", 4)._asdict()
    )
    with pytest.raises(ValueError, match="not in"):
        reading("text", Operand("ax; exit()")._asdict())


def test_a_probe_with_too_few_arguments_is_refused() -> None:
    """The argument that a policy names must be there; a function's are where the calling convention has them."""
    point = CallPoint("python3", "python:line", 3, TextKind.BYTES, 2, usdt=True)
    text, length, stream = lying(point, "8@%r14 -4@%eax 8@8(%rsp)")
    assert (text.register, length and length.signed, stream) == ("sp", True, None)
    with pytest.raises(ValueError, match="is told 2 arguments, and number 3"):
        lying(point, "8@%r14 8@%rax")
    function = CallPoint("ssl", "SSL_write", 2, TextKind.BYTES, 3, signed=True, stream=1)
    asked = [part and part._asdict() for part in lying(function, "")]
    made = {"number": 3, "string": False, "closing": False, "text": asked[0], "length": asked[1], "stream": asked[2]}
    assert "s32 most = (s32)ctx->dx;" in source(made, 4, 5)
