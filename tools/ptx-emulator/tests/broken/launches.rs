//! Launches that the driver refuses.

use ptx_emulator::Kind::BadLaunch;
use ptx_emulator::{Launch, Memory, Options, SHARED_LIMIT, launch};

use crate::common::{HEADER, parse};

#[test]
fn launches_that_cannot_be() {
    let text = format!(
        "{HEADER}.extern .shared .align 16 .b8 rest[];\n.shared .align 16 .b8 fixed[1024];\n\
         .visible .entry small(.param .u64 a, .param .u32 b)\n.maxntid 64, 1, 1\n{{\n    ret;\n}}\n\
         .visible .entry k(.param .u64 a, .param .u32 b)\n{{\n    ret;\n}}\n"
    );
    let module = parse(&text);
    let memory = Memory::new(1 << 20);
    let attempt = |name: &str, grid, block, dynamic_shared, parameters: &[u8]| {
        let entry = module.entry(name).expect("the kernel");
        let request = Launch {
            entry,
            grid,
            block,
            dynamic_shared,
            parameters,
        };
        launch(&memory, &request, &Options::default())
    };
    let ok = [0; 12];
    let one = [1, 1, 1];
    for (name, grid, block, shared, parameters, says) in [
        ("k", [0, 1, 1], one, 0, &ok[..], "a grid of 0 x 1 x 1"),
        ("k", [3, 0, 1], one, 0, &ok, "a grid of 3 x 0 x 1"),
        ("k", [1, 1, 65_536], one, 0, &ok, "65535"),
        ("k", [1, 70_000, 1], one, 0, &ok, "65535"),
        ("k", [1 << 31, 1, 1], one, 0, &ok, "2147483647"),
        ("k", one, [0, 1, 1], 0, &ok, "a block of 0 x 1 x 1"),
        ("k", one, [32, 32, 0], 0, &ok, "a block of 32 x 32 x 0"),
        ("k", one, [1025, 1, 1], 0, &ok, "the kernel allows 1024"),
        ("k", one, [32, 33, 1], 0, &ok, "the kernel allows 1024"),
        ("k", one, [1, 1, 65], 0, &ok, "1 x 1 x 65"),
        (
            "k",
            one,
            [65_536, 65_536, 1],
            0,
            &ok,
            "the kernel allows 1024",
        ),
        ("small", one, [65, 1, 1], 0, &ok, "the kernel allows 64"),
        (
            "k",
            one,
            [32, 1, 1],
            SHARED_LIMIT - 1023,
            &ok,
            "bytes of shared memory per block",
        ),
        (
            "k",
            one,
            [32, 1, 1],
            u32::MAX,
            &ok,
            "bytes of shared memory per block",
        ),
        (
            "k",
            one,
            one,
            0,
            &ok[..8],
            "8 bytes of parameters; the entry has 12 in 2",
        ),
        ("k", one, one, 0, &[0; 16], "16 bytes of parameters"),
        ("k", one, one, 0, &[], "0 bytes of parameters"),
    ] {
        let report = attempt(name, grid, block, shared, parameters).expect_err(says);
        assert_eq!(
            (report.kind, report.line, report.entry.as_str()),
            (BadLaunch, 0, name),
            "{report}"
        );
        assert!(
            report.detail.contains(says),
            "does not say `{says}`: {report}"
        );
        assert!(!report.to_string().contains('\n'));
    }
    for (name, grid, block, shared) in [
        ("k", one, [1024, 1, 1], 0),
        ("k", [7, 3, 2], [4, 4, 64], 0),
        ("small", one, [8, 8, 1], 0),
        ("k", one, one, SHARED_LIMIT - 1024),
    ] {
        attempt(name, grid, block, shared, &ok).unwrap_or_else(|e| panic!("{e}"));
    }
}
