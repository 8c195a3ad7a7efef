//! Runs one kernel of a PTX file on the emulator and prints what it counted.
//!
//! Exit codes: 0 done; 1 the file does not parse or the checker objects; 2 wrong usage.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use half::f16;
use ptx_emulator::{Entry, Launch, Memory, Module, Options, launch};

/// Runs one kernel of a PTX file on the CPU, checked, and prints its counts.
///
/// Each ARG is a parameter of the entry, in order: a number (u32=7, u64=7, f32=0.5), or a buffer, given by the type and
/// number of its elements and what they hold: f16:4096=random (uniform in [-1, 1), integers below 2^16), u32:64=index
/// (0, 1, 2, ..), f32:1=2.5, or nothing (f32:256: never written, so that reading it is reported).
///
/// The emulator's variables apply: PTX_EMULATOR_SCHEDULE=one-by-one, PTX_EMULATOR_COMPARE=1, PTX_EMULATOR_SEED=N,
/// PTX_EMULATOR_CORES=N, PTX_EMULATOR_LIMIT=N, and PTX_EMULATOR_TRACE=ENTRY:X,Y,Z:THREAD, which prints every instruction
/// of a thread.
#[derive(Parser)]
#[command(name = "ptx-run", version, max_term_width = 100)]
struct Arguments {
    /// The file, as the driver would get it.
    file: PathBuf,
    /// The kernel's name.
    entry: String,
    /// The kernel's arguments.
    #[arg(value_name = "ARG", value_parser = Argument::parse)]
    arguments: Vec<Argument>,
    /// Blocks in x, y and z.
    #[arg(long, value_name = "X[,Y[,Z]]", default_value = "1", value_parser = three)]
    grid: [u32; 3],
    /// Threads of a block in x, y and z.
    #[arg(long, value_name = "X[,Y[,Z]]", default_value = "32", value_parser = three)]
    block: [u32; 3],
    /// Dynamic shared memory in bytes.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// Print the first elements of this argument, counted from 0, afterwards.
    #[arg(long, value_name = "ARGUMENT")]
    print: Option<usize>,
    /// How many.
    #[arg(long, default_value_t = 16)]
    elements: usize,
}

#[derive(Clone, Copy, Debug)]
enum Type {
    U32,
    U64,
    F16,
    F32,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Unwritten,
    Index,
    Random,
    Value(f64),
}

#[derive(Clone, Copy, Debug)]
enum Argument {
    Number(Type, f64),
    Buffer(Type, usize, Content),
}

impl Type {
    fn bytes(self) -> usize {
        match self {
            Type::F16 => 2,
            Type::U32 | Type::F32 => 4,
            Type::U64 => 8,
        }
    }

    fn encode(self, value: f64, to: &mut Vec<u8>) {
        match self {
            Type::F16 => to.extend(f16::from_f64(value).to_le_bytes()),
            Type::F32 => to.extend((value as f32).to_le_bytes()),
            Type::U32 => to.extend((value as u32).to_le_bytes()),
            Type::U64 => to.extend((value as u64).to_le_bytes()),
        }
    }

    fn show(self, bytes: &[u8]) -> String {
        match self {
            Type::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_string(),
            Type::F32 => f32::from_le_bytes(bytes.try_into().expect("four")).to_string(),
            Type::U32 => u32::from_le_bytes(bytes.try_into().expect("four")).to_string(),
            Type::U64 => u64::from_le_bytes(bytes.try_into().expect("eight")).to_string(),
        }
    }
}

impl Argument {
    fn parse(text: &str) -> Result<Argument, String> {
        let (head, value) = match text.split_once('=') {
            Some((head, value)) => (head, Some(value)),
            None => (text, None),
        };
        let (name, count) = match head.split_once(':') {
            Some((name, count)) => (name, Some(count)),
            None => (head, None),
        };
        let ty = match name {
            "u32" => Type::U32,
            "u64" => Type::U64,
            "f16" => Type::F16,
            "f32" => Type::F32,
            _ => return Err("the type must be u32, u64, f16 or f32".into()),
        };
        let number = |v: &str| {
            let v: f64 = v.parse().map_err(|_| format!("`{v}` is no number"))?;
            let whole = v >= 0.0 && v.fract() == 0.0 && v < 2f64.powi(8 * ty.bytes() as i32);
            match ty {
                Type::U32 | Type::U64 if !whole => Err(format!("`{v}` is no {name}")),
                _ => Ok(v),
            }
        };
        match (count, value, ty) {
            (None, Some(_), Type::F16) => Err("a kernel's number is u32, u64 or f32".into()),
            (None, Some(v), _) => Ok(Argument::Number(ty, number(v)?)),
            (None, None, _) => Err("a number needs a value, a buffer its length".into()),
            (Some(count), value, _) => {
                let count = count
                    .parse()
                    .ok()
                    .filter(|&n: &usize| n > 0 && n < 1 << 32)
                    .ok_or("the length must be a number above zero")?;
                let content = match value {
                    None => Content::Unwritten,
                    Some("index") => Content::Index,
                    Some("random") => Content::Random,
                    Some(v) => Content::Value(number(v)?),
                };
                Ok(Argument::Buffer(ty, count, content))
            }
        }
    }
}

fn three(text: &str) -> Result<[u32; 3], String> {
    let mut sizes = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("at most three numbers".into());
    }
    for (size, part) in sizes.iter_mut().zip(parts) {
        *size = part.parse().map_err(|_| format!("`{part}` is no number"))?;
    }
    Ok(sizes)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            eprintln!("error: {why}");
            ExitCode::from(code)
        }
    }
}

/// A launch from the command line; an error with its exit code.
fn run(arguments: &Arguments) -> Result<(), (u8, String)> {
    let usage = |why: String| (2, why);
    let wrong = |why: String| (1, why);
    let options = Options {
        count_memory: true,
        ..Options::from_environment().map_err(usage)?
    };
    let file = arguments.file.display();
    let text =
        std::fs::read_to_string(&arguments.file).map_err(|e| wrong(format!("{file}: {e}")))?;
    let module =
        Module::parse(&text).map_err(|e| wrong(format!("{file}:{}: {}", e.line, e.message)))?;
    let entry = module
        .entry(&arguments.entry)
        .ok_or_else(|| wrong(format!("{file}: no entry `{}`", arguments.entry)))?;
    let memory = Memory::new(64 << 30);
    let (parameters, buffers) = place(entry, &arguments.arguments, &memory).map_err(usage)?;
    let counters = launch(
        &memory,
        &Launch {
            entry,
            grid: arguments.grid,
            block: arguments.block,
            dynamic_shared: arguments.shared,
            parameters: &parameters,
        },
        &options,
    )
    .map_err(|report| wrong(format!("{file}: {report}")))?;
    for (name, count) in counters.named() {
        println!("{name:>22} {count}");
    }
    if let Some(which) = arguments.print {
        let Some(&Some((ty, count, address))) = buffers.get(which) else {
            return Err((2, format!("--print {which}: that argument is no buffer")));
        };
        let mut bytes = vec![0; count.min(arguments.elements) * ty.bytes()];
        memory.read(address, &mut bytes).map_err(wrong)?;
        let elements = bytes.chunks_exact(ty.bytes()).map(|b| ty.show(b));
        println!("{}", elements.collect::<Vec<_>>().join(" "));
    }
    Ok(())
}

/// The parameter bytes, and for each argument that is a buffer its type, length and address.
#[allow(clippy::type_complexity, reason = "used once, described above")]
fn place(
    entry: &Entry,
    arguments: &[Argument],
    memory: &Memory,
) -> Result<(Vec<u8>, Vec<Option<(Type, usize, u64)>>), String> {
    if entry.parameters.len() != arguments.len() {
        let names: Vec<&str> = entry.parameters.iter().map(|p| p.name.as_str()).collect();
        return Err(format!(
            "{} takes {} arguments ({}), {} were given",
            entry.name,
            names.len(),
            names.join(", "),
            arguments.len()
        ));
    }
    let mut random = fastrand::Rng::with_seed(1);
    let mut parameters = vec![0; entry.parameter_bytes];
    let mut buffers = Vec::new();
    for (parameter, argument) in entry.parameters.iter().zip(arguments) {
        let mut value = Vec::new();
        match *argument {
            Argument::Number(ty, v) => {
                ty.encode(v, &mut value);
                buffers.push(None);
            }
            Argument::Buffer(ty, count, content) => {
                let bytes = (count * ty.bytes()) as u64;
                let address = memory
                    .alloc(bytes)
                    .ok_or_else(|| format!("{}: no memory for {bytes} bytes", parameter.name))?;
                let mut data = Vec::new();
                for i in 0..count {
                    let element = match (content, ty) {
                        (Content::Unwritten, _) => break,
                        (Content::Index, _) => i as f64,
                        (Content::Random, Type::U32 | Type::U64) => f64::from(random.u16(..)),
                        (Content::Random, _) => 2.0 * random.f64() - 1.0,
                        (Content::Value(v), _) => v,
                    };
                    ty.encode(element, &mut data);
                }
                memory.write(address, &data)?;
                value.extend(address.to_le_bytes());
                buffers.push(Some((ty, count, address)));
            }
        }
        if value.len() != parameter.bytes {
            return Err(format!(
                "{}: {} bytes, {} were given",
                parameter.name,
                parameter.bytes,
                value.len()
            ));
        }
        parameters[parameter.offset..][..value.len()].copy_from_slice(&value);
    }
    Ok((parameters, buffers))
}
