//! The command `ptx-run`: a kernel runs with the arguments of the command line, and what is wrong takes one line.

use std::path::PathBuf;
use std::process::Command;

/// Adds its index to every element of `x` and stores the sum in `y`.
const KERNEL: &str = ".version 7.0\n.target sm_80\n.address_size 64\n\
.visible .entry shift(.param .u64 p_x, .param .u64 p_y, .param .u32 p_n)
{
    .reg .pred %p;
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    .reg .f32 %f<2>;
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %ntid.x;
    mov.u32 %r2, %tid.x;
    mad.lo.u32 %r0, %r0, %r1, %r2;
    ld.param.u32 %r3, [p_n];
    setp.ge.u32 %p, %r0, %r3;
    @%p bra DONE;
    mul.wide.u32 %rd2, %r0, 4;
    ld.param.u64 %rd0, [p_x];
    add.u64 %rd0, %rd0, %rd2;
    ld.global.f32 %f0, [%rd0];
    cvt.rn.f32.u32 %f1, %r0;
    add.rn.f32 %f0, %f0, %f1;
    ld.param.u64 %rd1, [p_y];
    add.u64 %rd1, %rd1, %rd2;
    st.global.f32 [%rd1], %f0;
DONE:
    ret;
}
";

/// Writes `text` to a file of its own and runs the command on it: exit code, standard output, standard error.
fn run(name: &str, text: &str, arguments: &[&str]) -> (i32, String, String) {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ptx-run-{name}.ptx"));
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ptx-run"))
        .arg(&file)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_kernel_runs_and_is_counted() {
    let arguments = ["shift", "--grid", "2", "--block", "32", "--print", "1"];
    let buffers = ["f32:40=0.5", "f32:40", "u32=40"];
    let (code, out, err) = run("plain", KERNEL, &[&arguments[..], &buffers].concat());
    assert_eq!((code, err.as_str()), (0, ""));
    // Six and the return of all 64 threads, the branch of the 24 that take it, nine of the other 40.
    assert!(out.contains("instructions 832\n"), "{out}");
    assert!(out.contains("global_bytes_read 160\n"), "{out}");
    assert!(
        out.ends_with("\n0.5 1.5 2.5 3.5 4.5 5.5 6.5 7.5 8.5 9.5 10.5 11.5 12.5 13.5 14.5 15.5\n")
    );
}

#[test]
fn what_is_wrong_takes_one_line() {
    let good = ["shift", "f32:32=index", "f32:32", "u32=32"];
    for (name, text, arguments, code, expected) in [
        (
            "range",
            KERNEL,
            &["shift", "--block", "64", "f32:32=1", "f32:64", "u32=64"][..],
            1,
            "out of bounds: shift, line 20",
        ),
        (
            "unwritten",
            KERNEL,
            &["shift", "f32:32", "f32:32", "u32=32"],
            1,
            "shift, line 20",
        ),
        (
            "grid",
            KERNEL,
            &["shift", "--grid", "0", "f32:32=1", "f32:32", "u32=32"],
            1,
            "shift",
        ),
        (
            "count",
            KERNEL,
            &["shift", "f32:32"],
            2,
            "takes 3 arguments (p_x, p_y, p_n), 1 were given",
        ),
        (
            "size",
            KERNEL,
            &["shift", "f32:32", "f32:32", "u64=1"],
            2,
            "p_n: 4 bytes, 8 were given",
        ),
        (
            "type",
            KERNEL,
            &["shift", "i8:32"],
            2,
            "u32, u64, f16 or f32",
        ),
        ("number", KERNEL, &["shift", "u32=-1"], 2, "`-1` is no u32"),
        (
            "print",
            KERNEL,
            &["shift", "--print", "2", good[1], good[2], good[3]],
            2,
            "no buffer",
        ),
        ("entry", KERNEL, &["shifted"], 1, "no entry `shifted`"),
        (
            "text",
            &KERNEL.replace("add.rn.f32", "add.up.f32"),
            &good,
            1,
            ":22: ",
        ),
    ] {
        let (found, _, err) = run(name, text, arguments);
        assert_eq!(found, code, "{name}: {err}");
        assert!(err.contains(expected), "{name}: {err}");
        if code == 1 {
            assert_eq!(err.lines().count(), 1, "{name}: {err}");
        }
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_ptx-run"))
        .args(["no-such-file.ptx", "shift"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).starts_with("error: no-such-file.ptx: "));
}
