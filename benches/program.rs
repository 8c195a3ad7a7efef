//! The bench program: one module per operator in `ops/`, each case checked first and then timed.
//!
//! A case runs once and a sample of its result is held against the operator's reference in f64 within the operator's
//! error bound; only then is it timed (see `timing.rs`). Its floor follows from the cost that the operator itself
//! declares and from two limits of the device that are measured at the start (`study::profile`). What a device lacks is
//! a row that says so. Exit codes: 0 done, 1 a check or a run failed, 2 wrong usage.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nearmiss::device::{Ceilings, Cost, Device, DeviceChoice, DeviceKind};
use nearmiss::ops::OpSpec;
use nearmiss::study::profile::{Limits, Probe, measure_limits};
use nearmiss::{Error, Result};
use serde_json::{Value, json};

mod counts;
mod machine;
mod ops;
pub mod record;
pub mod timing;

use counts::{Counter, Counts};
use record::{Record, Row};

/// Times every operator, and the whole encoder, on one device.
#[derive(Parser)]
#[command(name = "ops", version, max_term_width = 100)]
struct Options {
    /// auto, cpu, cuda, cuda:N, wgpu, vulkan or metal.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Only cases whose name (`operator shape`) contains this.
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    filter: String,
    /// Small shapes, one call each: shows that everything runs; the times mean nothing.
    #[arg(long, alias = "test")]
    quick: bool,
    /// Keep the result as `<results>/<device>/<date>.csv` and `.txt`, with the facts of the machine.
    #[arg(long, conflicts_with = "quick")]
    save: bool,
    /// Where `--save` writes.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"))]
    results: PathBuf,
    /// Seconds of timing per case.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Print one JSON object per line instead of the table.
    #[arg(long)]
    json: bool,
    /// Model folder of the case `encode`; default: the tiny models of the tests.
    #[arg(long, value_name = "DIR", env = "NEARMISS_BACKBONE")]
    backbone: Option<PathBuf>,
    /// Only cases of this operator.
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Only the case of exactly this name.
    #[arg(long = "case", value_name = "NAME")]
    exact: Option<String>,
    /// Check each case and call it once more, as a profiler wants it; nothing is timed.
    #[arg(long, conflicts_with_all = ["quick", "save"])]
    once: bool,
    /// The device's limits, measured before by `gpu-check limits`; default: they are measured here.
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
    /// Print the cases of a scale (quick, software, cpu or gpu) with their sizes, one JSON object a line; nothing runs.
    #[arg(long, value_name = "SCALE", value_enum)]
    list: Option<Scale>,
    /// Given by `cargo bench`; changes nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How large the shapes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scale {
    /// Tiny, one call: a trial run.
    Quick,
    /// What a software adapter finishes in bearable time.
    Software,
    /// The encoder's own shapes at 2,048 tokens; 100,000 documents.
    Cpu,
    /// What fills a large GPU: 32,768 tokens, up to 10,000,000 documents.
    Gpu,
}

/// What the cases need to know.
pub struct Context {
    /// Where they run.
    pub device: Device,
    /// How large.
    pub scale: Scale,
    /// Bytes that the inputs of successive calls must span together so that a call does not find its own in the cache.
    pub cold_bytes: u64,
    /// Bytes that they may take.
    pub max_bytes: u64,
    /// The model folder for `encode`.
    pub backbone: Option<PathBuf>,
    /// If launches are counted, which takes the place of timing.
    pub counter: Option<Counter>,
}

impl Context {
    /// How many sets of `bytes` bytes of inputs and outputs a case rotates through.
    pub fn sets(&self, bytes: u64) -> usize {
        if self.scale == Scale::Quick || self.counter.is_some() {
            return 1;
        }
        let wanted = self.cold_bytes.div_ceil(bytes.max(1));
        let allowed = self.max_bytes / bytes.max(1);
        wanted.min(allowed).max(1) as usize
    }
}

/// Makes a case's inputs, runs it once and checks the result.
pub type Prepare = Box<dyn Fn(&Context) -> Result<Prepared>>;

/// One thing to time.
pub struct Case {
    /// Operator, or `encode`.
    pub op: &'static str,
    /// Sizes, readable.
    pub shape: String,
    /// The same for programs: what another implementation needs to do as much.
    pub sizes: Value,
    /// The operators it runs.
    pub needs: &'static [&'static OpSpec],
    /// Makes the inputs, runs it once and checks the result.
    pub prepare: Prepare,
}

/// A case whose result has been compared.
pub struct Prepared {
    /// Output elements held against the reference.
    pub checked: usize,
    /// Largest `error / bound` of them.
    pub worst: f64,
    /// Input sets it rotates through.
    pub sets: usize,
    /// Their bytes together.
    pub set_bytes: u64,
    /// What of a call can be part of a graph.
    pub recorded: Recorded,
    /// What a user counts, and how many of them one call does: `queries`, `tokens`.
    pub items: (f64, &'static str),
    /// Call number `i`; enqueues the work and need not wait for it.
    pub call: Box<dyn FnMut(usize) -> Result<()>>,
}

/// What of a call can be recorded, which is what enqueues work and waits for nothing.
pub enum Recorded {
    /// All of it.
    All,
    /// Nothing: its work depends on results of the device, or is recorded by whoever does it.
    Nothing,
    /// The same work with its results left on the device.
    Without(Box<dyn FnMut(usize) -> Result<()>>),
}

/// Runs the program with these arguments, the first being its name.
pub fn main_with(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(e) => {
            // A closed pipe is all that can go wrong here, and then nobody reads.
            let _ = e.print();
            return ExitCode::from(e.exit_code() as u8);
        }
    };
    match run(options) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(options: Options) -> Result<ExitCode> {
    if !(options.seconds > 0.0 && options.seconds.is_finite()) {
        return Err(Error::Usage("--seconds must be above 0".into()));
    }
    let choice: DeviceChoice = match options.list {
        Some(_) => DeviceChoice::Cpu,
        None => options.device.parse()?,
    };
    let device = Device::open(choice)?;
    let scale = match device.kind() {
        _ if options.list.is_some() => options.list.unwrap_or(Scale::Quick),
        _ if options.quick => Scale::Quick,
        DeviceKind::Cpu => Scale::Cpu,
        _ if device.is_software() => Scale::Software,
        _ => Scale::Gpu,
    };
    let cache = machine::last_level_cache(&device);
    let context = Context {
        cold_bytes: 3 * cache,
        max_bytes: if scale == Scale::Gpu {
            4 << 30
        } else {
            300 << 20
        },
        backbone: options.backbone,
        counter: Counter::of(&device),
        device,
        scale,
    };
    let wanted = |case: &Case| {
        let name = format!("{} {}", case.op, case.shape);
        options.op.as_ref().is_none_or(|op| case.op == op)
            && options.exact.as_ref().is_none_or(|exact| name == *exact)
            && name.contains(&options.filter)
    };
    let cases: Vec<Case> = ops::cases(&context)?.into_iter().filter(wanted).collect();
    if cases.is_empty() {
        return Err(Error::Usage(format!(
            "no case is called `{}`; names begin with an operator's, as cosine_topk, or encode",
            [&options.op, &options.exact]
                .into_iter()
                .flatten()
                .next()
                .unwrap_or(&options.filter)
        )));
    }
    if options.list.is_some() {
        for case in cases {
            println!(
                "{}",
                json!({"op": case.op, "shape": case.shape, "sizes": case.sizes})
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.once {
        return once(&cases, &context);
    }
    let probe = match context.scale {
        Scale::Quick => Probe::QUICK,
        _ if context.counter.is_some() => Probe::QUICK,
        _ => Probe::of(&context.device),
    };
    // Those that were to be measured before may be missing, if that took too long.
    let given = options.limits.as_deref().filter(|path| path.is_file());
    let limits = match given.map(Limits::read) {
        Some(Ok(limits)) => limits,
        _ => measure_limits(&context.device, probe)?,
    };
    let mut record = Record::new(&context, cache, &limits);
    if options.json {
        println!("{}", record.facts_json());
    } else {
        eprintln!("{}", record.facts_text());
    }
    for case in cases {
        eprintln!("{} {}", case.op, case.shape);
        let row = measure(&case, &context, limits.ceilings, options.seconds);
        if options.json {
            println!("{}", row.json());
        }
        record.rows.push(row);
        // What the allocator kept of this case's inputs is of no use to the next.
        context.device.set_memory_caching(false);
        context.device.set_memory_caching(true);
    }
    if options.json {
        if let Some(clocks) = machine::nvidia_clocks() {
            println!("{}", json!({"clocks_after": clocks}));
        }
    } else {
        println!("{}", record.table());
    }
    let failed = record.failures();
    if options.save {
        if failed > 0 {
            eprintln!("not saved: {failed} cases failed");
        } else {
            let (csv, txt) = record.save(&options.results)?;
            eprintln!("saved {} and {}", csv.display(), txt.display());
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Checks each case and calls it once more.
fn once(cases: &[Case], context: &Context) -> Result<ExitCode> {
    let mut all = true;
    for case in cases {
        let mut prepared = (case.prepare)(context)?;
        (prepared.call)(0)?;
        context.device.synchronize()?;
        let right = prepared.worst <= 1.0;
        println!(
            "{} {}: error is {:.3} times its bound",
            case.op, case.shape, prepared.worst
        );
        all &= right;
    }
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Checks and times one case; whatever happens becomes its row.
fn measure(case: &Case, context: &Context, ceilings: Ceilings, seconds: f64) -> Row {
    let row = Row::new(case.op, &case.shape);
    let kind = context.device.kind();
    if let Some(missing) = case.needs.iter().find(|op| !op.runs_on(kind)) {
        let which = if missing.name == case.op {
            String::new()
        } else {
            format!(" ({} is missing)", missing.name)
        };
        return row.unavailable(format!("not available on {kind}{which}"));
    }
    let mut prepared = match (case.prepare)(context) {
        Ok(prepared) => prepared,
        Err(e @ Error::Unsupported { .. }) => {
            return row.unavailable(format!("not available on {kind}: {e}"));
        }
        Err(e) => return row.failed(e.to_string()),
    };
    let row = row.checked(&prepared);
    if prepared.worst.is_nan() || prepared.worst > 1.0 {
        return row.failed(format!("error is {:.3} times its bound", prepared.worst));
    }
    let device = &context.device;
    let quick = context.scale == Scale::Quick;
    let measured = match &context.counter {
        Some(counter) => {
            counts_of_a_call(device, counter, &mut prepared).map(|(cost, c)| row.counted(cost, c))
        }
        None => cost_of_a_call(device, &mut prepared).and_then(|cost| {
            let times = timing::time(
                device,
                seconds,
                quick,
                &mut prepared.call,
                &mut prepared.recorded,
            )?;
            Ok(row.timed(&prepared, cost, times, ceilings))
        }),
    };
    measured.unwrap_or_else(|e| Row::new(case.op, &case.shape).failed(e.to_string()))
}

/// What one call costs, as the operators in it declare and as the emulator counts it.
fn counts_of_a_call(
    device: &Device,
    counter: &Counter,
    prepared: &mut Prepared,
) -> Result<(Cost, Counts)> {
    // The second call of a shape may record a graph and so do everything twice; this is it.
    (prepared.call)(0)?;
    device.synchronize()?;
    let before = counter.launches()?;
    let cost = cost_of_a_call(device, prepared)?;
    Ok((cost, counter.since(before)?))
}

/// What one call costs, as the operators in it declare.
fn cost_of_a_call(device: &Device, prepared: &mut Prepared) -> Result<Cost> {
    let total = || {
        let mut sum = Cost::default();
        device.op_totals().iter().for_each(|op| sum += op.cost);
        sum
    };
    let before = total();
    (prepared.call)(0)?;
    device.synchronize()?;
    let after = total();
    Ok(Cost {
        flop: after.flop - before.flop,
        bytes: after.bytes - before.bytes,
    })
}
