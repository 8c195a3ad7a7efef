//! Deliberately broken kernels, for every kind of report: each must be found, under both schedules and whatever the
//! seed, at the right line and in words that help; and its repaired twin, which differs in the marked lines only, must
//! pass and give the right result.

#[path = "broken/block_race.rs"]
mod block_race;
#[path = "broken/bounds.rs"]
mod bounds;
mod common;
#[path = "broken/copies.rs"]
mod copies;
#[path = "broken/deadlock.rs"]
mod deadlock;
#[path = "broken/endless.rs"]
mod endless;
#[path = "broken/launches.rs"]
mod launches;
#[path = "broken/oracle.rs"]
mod oracle;
#[path = "broken/race.rs"]
mod race;
#[path = "broken/schedule.rs"]
mod schedule;
#[path = "broken/undefined.rs"]
mod undefined;
#[path = "broken/uninitialised.rs"]
mod uninitialised;

use common::{
    Arg, HEADER, Shape, all_options, around, assembles, kernel_with, name, on_emulator, parse, run,
    shape, words,
};
use ptx_emulator::{Kind, Options, Report};

/// A kernel in two versions.
///
/// In its text, a line that ends in `// broken` is there in the broken version only, one that ends in `// repaired` in
/// the other only; `// here` marks the lines that a report may name (together: `// broken, here`).
struct Broken {
    kind: Kind,
    /// What may be found first, if the threads come in another order.
    also: Vec<Kind>,
    declarations: String,
    body: String,
    shape: Shape,
    args: [Arg; 2],
    options: Options,
    /// The broken version runs with more than that.
    says: Vec<&'static str>,
}

/// A kernel of one block of 32 threads with 128 bytes of zeros to read (`%in`) and to write (`%out`).
fn broken(kind: Kind, body: &str) -> Broken {
    Broken {
        kind,
        also: Vec::new(),
        declarations: String::new(),
        body: body.into(),
        shape: shape(1, 32),
        args: [Arg::zeros(128), Arg::zeros(128)],
        options: Options::default(),
        says: Vec::new(),
    }
}

impl Broken {
    fn with(mut self, shape: Shape, input: Arg, output: Arg) -> Self {
        (self.shape, self.args) = (shape, [input, output]);
        self
    }

    fn declares(mut self, declarations: &str) -> Self {
        self.declarations = declarations.into();
        self
    }

    fn or(mut self, kind: Kind) -> Self {
        self.also.push(kind);
        self
    }

    /// The detail of the report contains all these.
    fn says(mut self, parts: &[&'static str]) -> Self {
        self.says.extend(parts);
        self
    }

    fn limit(mut self, limit: u64) -> Self {
        self.options.limit = limit;
        self
    }

    fn text(&self, broken: bool) -> String {
        let (mine, other) = if broken {
            ("broken", "repaired")
        } else {
            ("repaired", "broken")
        };
        let whole = kernel_with(HEADER, &self.declarations, &self.body);
        assert!(
            whole.lines().any(|l| marked(l, mine)) || whole.lines().any(|l| marked(l, other)),
            "no line is marked"
        );
        let lines = whole.lines().map(|l| if marked(l, other) { "" } else { l });
        lines.map(|l| format!("{l}\n")).collect()
    }

    /// What is found in the broken version under some options.
    fn report(&self, text: &str, options: &Options) -> Report {
        let module = parse(text);
        let entry = module.entry("k").expect("the kernel");
        let options = Options {
            limit: self.options.limit,
            compare: self.options.compare,
            ..options.clone()
        };
        match run(entry, self.shape, &self.args, &options) {
            Err(report) => report,
            Ok(_) => panic!(
                "{}: nothing is found in\n{}",
                name(&options),
                around(text, 0)
            ),
        }
    }

    /// Finds what is broken; the output of the repaired version.
    fn found(self) -> Vec<u32> {
        let text = self.text(true);
        assembles(&text, "sm_80");
        let here: Vec<u32> = (1..)
            .zip(text.lines())
            .filter(|(_, l)| marked(l, "here"))
            .map(|(n, _)| n)
            .collect();
        assert!(!here.is_empty(), "no line is marked");
        let mut expected = 0;
        for mut options in all_options(6) {
            if self.kind == Kind::BlockRace {
                // On several cores it depends on their timing which of two racing blocks comes second.
                options.cores = 1;
            }
            let report = self.report(&text, &options);
            let shown = report.to_string();
            let context = || {
                format!(
                    "{}: {shown}\n{}",
                    name(&options),
                    around(&text, report.line)
                )
            };
            assert!(
                report.kind == self.kind || self.also.contains(&report.kind),
                "wrong kind; {}",
                context()
            );
            assert!(here.contains(&report.line), "wrong line; {}", context());
            let line = text.lines().nth(report.line as usize - 1).unwrap();
            let written: Vec<&str> = line
                .split("//")
                .next()
                .unwrap()
                .trim()
                .trim_end_matches(';')
                .split_whitespace()
                .collect();
            assert_eq!(
                report.instruction,
                written.join(" "),
                "wrong instruction; {}",
                context()
            );
            assert_eq!(report.entry, "k");
            assert!(
                !shown.contains('\n') && shown.contains(&format!("line {}", report.line)),
                "{}",
                context()
            );
            assert!(
                report
                    .block
                    .iter()
                    .zip(self.shape.grid)
                    .all(|(i, n)| *i < n),
                "wrong block; {}",
                context()
            );
            let threads: u32 = self.shape.block.iter().product();
            assert!(
                report.thread.is_none_or(|t| t < threads),
                "wrong thread; {}",
                context()
            );
            // The same options give the same report.
            assert_eq!(self.report(&text, &options), report, "{}", name(&options));
            if report.kind == self.kind {
                expected += 1;
                for part in &self.says {
                    let one_of = part.split('|').any(|p| report.detail.contains(p));
                    assert!(one_of, "does not say `{part}`; {}", context());
                }
            }
        }
        assert!(expected > 0, "never found as {:?}", self.kind);
        let text = self.text(false);
        assembles(&text, "sm_80");
        words(&on_emulator(&text, self.shape, &self.args)[1])
    }

    /// Finds what is broken, and compares the output of the repaired version.
    fn gives(self, want: impl IntoIterator<Item = u32>) {
        let found = self.found();
        assert_eq!(found, want.into_iter().collect::<Vec<_>>());
    }
}

/// Whether a line's comment marks it with this word.
fn marked(line: &str, word: &str) -> bool {
    line.rsplit_once("// ")
        .is_some_and(|(_, marks)| marks.split(", ").any(|m| m == word))
}

/// Writes `id` into `shared` words and names the thread's own address `%r1`, that of thread `id ^ 1` `%r2`, that of
/// thread `id ^ 32` `%r3`.
const ROOM: &str = ".shared .align 16 .b8 room[512];
    mov.u32 %r0, room;
    mad.lo.u32 %r1, %id, 4, %r0;
    xor.b32 %r2, %id, 1;
    mad.lo.u32 %r2, %r2, 4, %r0;
    xor.b32 %r3, %id, 32;
    mad.lo.u32 %r3, %r3, 4, %r0;
";
