//! Text that is not understood in full is refused, with the line, what is wrong and the instruction.

use ptx_emulator::Module;

use crate::common::{HEADER, kernel};

/// The complaint about a text, as (line, message).
fn complaint(text: &str) -> Option<(u32, String)> {
    let e = Module::parse(text).err()?;
    assert_eq!(e.to_string(), format!("line {}: {}", e.line, e.message));
    assert!(!e.message.contains('\n'), "{e}");
    Some((e.line, e.message))
}

/// Instructions, and what the complaint about each must name.
#[test]
fn wrong_instructions_are_named() {
    let mut wrong = Vec::new();
    for (instruction, named) in [
        // Unknown instructions, or ones of other devices.
        (
            "frobnicate.u32 %r1, %r2;",
            "unknown instruction frobnicate.u32",
        ),
        (
            "dp4a.u32.u32 %r1, %r2, %r3, %r4;",
            "unknown instruction dp4a.u32.u32",
        ),
        ("mad.lo.u32 %r1, %r2, %tid.x, %r3;", "%tid.x"), // special registers are for mov
        (
            "slct.u32.s32 %r1, %r2, %r3, %r4;",
            "unknown instruction slct.u32.s32",
        ),
        (
            "prmt.b32.f4e %r1, %r2, %r3, %r4;",
            "unknown instruction prmt.b32.f4e",
        ),
        ("add.bf16 %h0, %h1, %h2;", "add.bf16"),
        ("sqrt.f32 %f1, %f2;", "unknown instruction sqrt.f32"),
        ("fma.f32 %f1, %f2, %f3, %f4;", "unknown instruction fma.f32"),
        ("mul.u32 %r1, %r2, %r3;", "unknown instruction mul.u32"),
        ("rem.f32 %f1, %f2, %f3;", "unknown instruction rem.f32"),
        ("add %r1, %r2, %r3;", "unknown instruction add"),
        ("setp.lt.b32 %p, %r1, %r2;", "no comparison .lt of .b32"),
        ("setp.ltu.s32 %p, %r1, %r2;", "no comparison .ltu of .s32"),
        (
            "atom.global.add.s64 %rd, [%in], %rd;",
            "no such operation on .s64",
        ),
        (
            "atom.global.min.f32 %f1, [%in], %f2;",
            "no such operation on .f32",
        ),
        (
            "red.global.exch.b32 [%in], %r1;",
            "red has no such operation",
        ),
        (
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8}, {%r9, %r10}, {%r1, %r2, %r3, %r4};",
            "only mma.sync",
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f16 {%f0, %f1, %f2, %f3}, {%r1, %r2}, {%r5}, {%r6, %r7};",
            "accumulators",
        ),
        ("shfl.up.b32 %r1, %r2, 1, 0;", "the .sync form is expected"),
        ("cp.async.bulk.wait_all;", "unknown modifier .bulk"),
        ("cvt.f16.f32 %h1, %f1;", "rounding"),
        ("cvt.rn.f32.f16 %f1, %h1;", "rounding"),
        ("cvt.s32.f32 %r1, %f1;", "rounding"),
        ("ld.u32 %r1, [%in];", "name the state space"),
        ("cvta.to.shared.u64 %rd, %rd;", "only cvta(.to).global.u64"),
        // Unknown modifiers.
        ("add.foo.u32 %r1, %r2, %r3;", "unknown modifier .foo"),
        ("add.sat.u32 %r1, %r2, %r3;", "unknown modifier .sat"),
        (
            "fma.rn.relu.f16x2 %r1, %r2, %r3, %r4;",
            "unknown modifier .relu",
        ),
        (
            "ld.global.nearby.u32 %r1, [%in];",
            "unknown modifier .nearby",
        ),
        ("bra.sideways END;", "unknown modifier .sideways"),
        ("mov.wide.u32 %r1, %r2;", "unknown modifier .wide"),
        // Operands: too few, too many, of the wrong kind.
        ("add.u32 %r1, %r2;", "2 operands where 3 belong"),
        ("add.u32 %r1, %r2, %r3, %r4;", "4 operands where 3 belong"),
        ("ld.global.u32 %r1;", "1 operands where 2 belong"),
        ("bar.sync;", "0 operands where 1 belong"),
        (
            "shfl.sync.idx.b32 %r1, %r2, 0, 31;",
            "4 operands where 5 belong",
        ),
        ("add.u32 5, %r1, %r2;", "the result must be a register"),
        (
            "add.f32 %f1, %rd, %f2;",
            "%rd is declared .b64 and used as .f32",
        ),
        (
            "add.s32 %f1, %r1, %r2;",
            "%f1 is declared .f32 and used as .s32",
        ),
        ("add.u64 %rd, %rd, %r1;", "%r1"),
        (
            "add.u32 %r1, %p, %r2;",
            "%p is declared .pred and used as .u32",
        ),
        ("@%r1 add.u32 %r1, %r2, %r3;", "%r1 is not a predicate"),
        ("selp.b32 %r1, %r2, %r3, %r4;", "%r4 is not a predicate"),
        (
            "ld.global.u32 %r1, %in;",
            "an address in brackets is expected",
        ),
        ("ld.global.u32 %r1, [%r2];", "%r2 is no address in .global"),
        (
            "ld.global.v2.u32 %r1, [%in];",
            "a vector of registers is expected",
        ),
        (
            "ld.global.v4.u32 {%r1, %r2}, [%in];",
            "2 registers for 4 elements",
        ),
        (
            "ld.global.v4.u64 {%rd, %rd0, %rd1, %rd2}, [%in];",
            "more than 16 bytes",
        ),
        ("st.const.u32 [0], %r1;", "cannot be written"),
        ("mov.b64 %rd, {%r1, %r2, %r3};", "3 parts"),
        ("add.f32 %f1, %f2, 3;", "an operand that is no .f32"),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r1, %r2}, {%r5, %r6}, {%f0, %f1, %f2, %f3};",
            "2 registers in operand 2 where 4 belong",
        ),
        ("cp.async.cg.shared.global [%r1], [%in], 8;", ".cg: 16"),
        (
            "cp.async.ca.shared.global [%r1], [%in], 5;",
            "4, 8 or 16 bytes",
        ),
        ("setp.lt.and.s32 %p, %r1, %r2;", "3 operands where 4 belong"),
        // Unknown names.
        ("add.u32 %r1, %r2, %nobody;", "unknown name %nobody"),
        ("add.u32 %nobody, %r1, %r2;", "unknown name %nobody"),
        ("bra NOWHERE;", "unknown label NOWHERE"),
        (
            "ld.param.u32 %r1, [p_nothing];",
            "unknown parameter p_nothing",
        ),
        ("ld.shared.u32 %r1, [nothing];", "unknown name nothing"),
        ("mov.u32 %r1, %tid.w;", "unknown name %tid.w"),
        ("mov.u32 %r1, %clock;", "unknown name %clock"),
        ("@%nobody bra END;", "unknown name %nobody"),
    ] {
        let text = kernel(&format!("mov.u32 %r1, 0;\n    {instruction}\nEND:"));
        let line = 1 + text
            .lines()
            .position(|l| l.trim() == instruction)
            .expect("the instruction's line");
        match complaint(&text) {
            None => wrong.push(format!("`{instruction}` is accepted")),
            Some((found, message)) => {
                let quoted = format!("in `{}`", instruction.trim_end_matches(';'));
                if found as usize != line || !message.contains(named) || !message.ends_with(&quoted)
                {
                    wrong.push(format!(
                        "`{instruction}` in line {line}: line {found}: {message}, without `{named}`"
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Mistakes around the instructions.
#[test]
fn wrong_texts_are_named() {
    let mut wrong = Vec::new();
    let plain = ".visible .entry k()\n{\n    ret;\n}\n";
    let body = |inner: &str| format!("{HEADER}.visible .entry k()\n{{\n{inner}\n    ret;\n}}\n");
    for (text, line, named) in [
        (plain.to_owned(), 1, ".version"),
        (format!(".version 7.0\n{plain}"), 1, ".target"),
        (format!(".version 9.9\n.target sm_80\n{plain}"), 1, "9.9"),
        (
            format!(".version x\n.target sm_80\n{plain}"),
            1,
            ".version x",
        ),
        (format!(".version 7.0\n.target sm_90\n{plain}"), 2, "sm_90"),
        (
            format!(".version 7.0\n.target sm_100a\n{plain}"),
            2,
            "sm_100a",
        ),
        (format!(".version 7.0\n.target gfx90\n{plain}"), 2, "gfx90"),
        (
            format!(".version 7.0\n.target sm_80, debug\n{plain}"),
            2,
            "debug",
        ),
        (
            format!(".version 7.0\n.target sm_80\n.address_size 32\n{plain}"),
            3,
            "address_size",
        ),
        (format!("{HEADER}{plain}{plain}"), 8, "a second entry k"),
        (format!("{HEADER}.func f()\n{{\n}}\n"), 4, ".func"),
        (
            format!("{HEADER}.visible .entry k(.param .u128 a)\n{{\n}}\n"),
            4,
            ".u128",
        ),
        (
            format!("{HEADER}.visible .entry k(.reg .u32 a)\n{{\n}}\n"),
            4,
            ".param",
        ),
        (
            format!("{HEADER}.visible .entry k()\n{{\n    ret;\n"),
            6,
            "never ends",
        ),
        (format!("{HEADER}/* no end\n{plain}"), 4, "never ends"),
        (body("    .reg .b32 %r, %r;"), 6, "%r is declared twice"),
        (body("    .reg .q32 %r;"), 6, ".q32"),
        (body("    .reg .b32 %r<x>;"), 6, "`x` is not a number"),
        (body("L:\nL:"), 7, "a second label L"),
        (body("    .loc 1 2 3;"), 6, ".loc"),
        (
            body("    .shared .align 4 .b8 a[4] = {1, 2};"),
            6,
            "initial",
        ),
        (body("    .local .align 4 .b8 a[];"), 6, "a has no size"),
        (
            body("    .reg .b32 %r;\n    mov.u32 %r, 12abc;"),
            7,
            "`12abc` is not a number",
        ),
        (
            body("    .reg .b32 %r;\n    mov.u32 %r 5;"),
            7,
            "expected `;`",
        ),
        (
            body("    .reg .b32 %r;\n    mov.u32 %r, ;"),
            7,
            "expected an operand",
        ),
        (
            body("    .reg .b32 %r;\n    mov.u32 %r, 5\n    ret;"),
            8,
            "expected `;`",
        ),
        (
            body("    .reg .f32 %f;\n    mov.f32 %f, 0f3F80;"),
            7,
            "`0f3F80` is not a number",
        ),
        (body("    bra ü;"), 6, "ASCII"),
        (
            body(
                "    .reg .b32 %r;\n    {\n        .reg .b32 %inner;\n    }\n    mov.u32 %r, %inner;",
            ),
            10,
            "%inner",
        ),
    ] {
        match complaint(&text) {
            None => wrong.push(format!("accepted:\n{text}")),
            Some((found, message)) if found != line || !message.contains(named) => {
                wrong.push(format!(
                    "line {found}: {message}; wanted line {line} and `{named}`"
                ));
            }
            Some(_) => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A line break inside an instruction: the line is where it begins, the quotation one line.
#[test]
fn instructions_over_several_lines() {
    let text = kernel("    add.u32\n      %r1, // the first\n      %r2, %nobody;");
    let line = 1 + text
        .lines()
        .position(|l| l.trim() == "add.u32")
        .expect("the instruction");
    let message = "unknown name %nobody in `add.u32 %r1, %r2, %nobody`".to_owned();
    assert_eq!(complaint(&text), Some((line as u32, message)));
}
