//! The parity suite: every operator, on a device, against its reference in f64, within its derived bound.
//!
//! A case draws random inputs, runs the operator twice into outputs that held something else (see [`outputs`]), and
//! compares each output element with the reference (see [`judge`](mod@judge)); it also runs a **broken variant** (a tile
//! dropped, a mask ignored, two rows exchanged) through the same device and the same comparison, and fails unless that is
//! rejected. What was compared is kept as a [`Record`], from which the operator table is made. A case fails, too, if its
//! errors have jumped against the stored record, or if it ran a kernel variant that the operator does not list.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use half::f16;
use nearmiss::device::{Device, DeviceKind, ElementType, Float, Tier, WgpuOptions};
use nearmiss::ops::table::SUBJECTS;
pub use nearmiss::ops::table::{Record, Records};
use nearmiss::ops::{ALL, Rounding};

mod adamw;
mod add_rows;
mod attention;
mod attention_backward;
mod attention_pool;
mod attention_pool_backward;
mod batch_norm;
mod batch_norm_backward;
mod cosine_topk;
mod dropout;
mod embedding;
mod embedding_backward;
mod fold;
mod grad_norm;
mod info_nce;
mod judge;
mod layer_norm;
mod layer_norm_backward;
mod map_features;
mod map_features_backward;
mod map_pool_backward;
mod matmul;
mod matmul_nn;
mod matmul_tn;
mod max_pool;
mod max_pool_backward;
mod maxsim;
mod normalize_rows;
mod normalize_rows_backward;
mod outputs;
mod pair_dot;
mod pool;
mod pool_backward;
mod relu;
mod scatter_rows;
mod similarity_map;
mod similarity_map_backward;
mod soft_alignment;
mod unfold;
mod weighted_pool;
mod weighted_pool_backward;

pub use judge::{judge, worst_ratio};
#[allow(
    unused_imports,
    reason = "of the tests of the suite, which are not in every program"
)]
pub use outputs::{Bits, Output, POISONS, filled, inside, twice};

/// Runs a case on a device.
pub type Run = Box<dyn Fn(&Device) -> Result<Outcome, String> + Send + Sync>;

/// One case of one operator.
pub struct Case {
    /// Operator name, as in `nearmiss::ops::ALL`.
    pub op: &'static str,
    /// Sizes and element types, readable.
    pub name: String,
    /// Whether there is anything to compare on a device.
    pub on: fn(&Device) -> bool,
    /// Runs it.
    pub run: Run,
}

/// A case for every device.
pub fn anywhere(_: &Device) -> bool {
    true
}

/// A case for what only the PTX kernel does.
pub fn on_cuda(device: &Device) -> bool {
    device.kind() == DeviceKind::Cuda
}

/// A case for devices whose kernels see no more than a part of a large buffer.
pub fn where_bindings_end(device: &Device) -> bool {
    device.max_binding() < u64::MAX
}

/// What a case compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Output elements held against the reference.
    pub elements: u64,
    /// Largest `error / bound`; at most 1 in a passing case.
    pub worst: f64,
    /// The same for the arithmetic alone, over outputs stored as f32.
    pub arithmetic_f32: f64,
    /// The same for the arithmetic alone, over outputs stored as f16.
    pub arithmetic_f16: f64,
    /// Broken variants that were rejected.
    pub rejected: u64,
}

/// Adds a passing case to an operator's record.
pub fn add(record: &mut Record, outcome: Outcome) {
    record.cases += 1;
    record.elements += outcome.elements;
    record.worst_ratio = record.worst_ratio.max(outcome.worst);
    record.arithmetic_f32 = record.arithmetic_f32.max(outcome.arithmetic_f32);
    record.arithmetic_f16 = record.arithmetic_f16.max(outcome.arithmetic_f16);
    record.broken_rejected += outcome.rejected;
}

/// The cases for a device that is recorded as `name`, with all checks. Errors are held to the stored record, too, unless a
/// new one is being made (`recording`), or there is none of a device like this: those of wgpu are of a software adapter,
/// and hardware may round otherwise.
pub fn of(name: &str, device: &Device, recording: bool) -> Vec<Case> {
    let foreign = device.kind() == DeviceKind::Wgpu && !device.is_software();
    let stored = SUBJECTS
        .iter()
        .find(|subject| subject.name == name && !recording && !foreign)
        .and_then(|subject| subject.records())
        .unwrap_or_default();
    let mut cases = all();
    cases.retain(|case| {
        let spec = ALL.iter().find(|op| op.name == case.op);
        spec.is_some_and(|op| op.runs_on(device.kind())) && (case.on)(device)
    });
    let checked = |case: Case| {
        let stored = stored.get(case.op).copied();
        Case {
            run: Box::new(move |device| {
                let outcome = (case.run)(device)?;
                listed(device)?;
                let mut fresh = Record::default();
                add(&mut fresh, outcome);
                match stored
                    .map(|stored| stored.jumps(&fresh))
                    .unwrap_or_default()
                {
                    jumps if jumps.is_empty() => Ok(outcome),
                    jumps => Err(jumps.join("; ")),
                }
            }),
            ..case
        }
    };
    cases.into_iter().map(checked).collect()
}

/// All cases of all operators.
fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(embedding::cases());
    cases.extend(layer_norm::cases());
    cases.extend(matmul::cases());
    cases.extend(attention::cases());
    cases.extend(attention_backward::cases());
    cases.extend(attention_pool::cases());
    cases.extend(attention_pool_backward::cases());
    cases.extend(add_rows::cases());
    cases.extend(dropout::cases());
    cases.extend(pool::cases());
    cases.extend(normalize_rows::cases());
    cases.extend(normalize_rows_backward::cases());
    cases.extend(scatter_rows::cases());
    cases.extend(pool_backward::cases());
    cases.extend(layer_norm_backward::cases());
    cases.extend(embedding_backward::cases());
    cases.extend(cosine_topk::cases());
    cases.extend(pair_dot::cases());
    cases.extend(similarity_map::cases());
    cases.extend(maxsim::cases());
    cases.extend(soft_alignment::cases());
    cases.extend(map_features::cases());
    cases.extend(map_features_backward::cases());
    cases.extend(map_pool_backward::cases());
    cases.extend(similarity_map_backward::cases());
    cases.extend(unfold::cases());
    cases.extend(batch_norm::cases());
    cases.extend(batch_norm_backward::cases());
    cases.extend(fold::cases());
    cases.extend(max_pool::cases());
    cases.extend(max_pool_backward::cases());
    cases.extend(weighted_pool::cases());
    cases.extend(weighted_pool_backward::cases());
    cases.extend(relu::cases());
    cases.extend(matmul_nn::cases());
    cases.extend(matmul_tn::cases());
    cases.extend(info_nce::cases());
    cases.extend(grad_norm::cases());
    cases.extend(adamw::cases());
    cases
}

/// Every kernel variant that the device has compiled is one that its operator lists.
fn listed(device: &Device) -> Result<(), String> {
    static LISTED: [OnceLock<BTreeSet<(&str, String)>>; 2] = [const { OnceLock::new() }; 2];
    let cuda = device.kind() == DeviceKind::Cuda;
    let listed = LISTED[usize::from(cuda)].get_or_init(|| {
        let mut all = BTreeSet::new();
        for op in ALL {
            let variants = if cuda {
                (op.ptx_variants)()
            } else {
                (op.wgsl_variants)()
            };
            for kernel in op.kernels {
                all.extend(variants.iter().map(|v| (kernel.entry, v.to_string())));
            }
        }
        all
    });
    unlisted(&device.compiled_variants(), listed)
}

/// An error if a variant is not among those listed.
pub fn unlisted(
    compiled: &[(&'static str, String)],
    listed: &BTreeSet<(&'static str, String)>,
) -> Result<(), String> {
    match compiled.iter().find(|variant| !listed.contains(variant)) {
        Some((entry, variant)) => Err(format!(
            "{entry} [{variant}] is compiled, but its operator does not list it"
        )),
        None => Ok(()),
    }
}

/// Runs a case on a wgpu device of the same tier that is opened with other options.
pub fn reopened(
    device: &Device,
    options: WgpuOptions,
    run: impl Fn(&Device) -> Result<Outcome, String>,
) -> Result<Outcome, String> {
    let core = device.name().contains("core tier");
    let other = Device::wgpu(WgpuOptions {
        tier: core.then_some(Tier::Core),
        ..options
    })
    .map_err(line)?;
    other.set_memory_caching(false);
    let outcome = run(&other)?;
    listed(&other)?;
    Ok(outcome)
}

/// Runs a case on a device whose bindings hold at most 64 KiB.
pub fn with_small_bindings(
    device: &Device,
    run: impl Fn(&Device) -> Result<Outcome, String>,
) -> Result<Outcome, String> {
    let options = WgpuOptions {
        max_binding: Some(64 * 1024),
        ..Default::default()
    };
    reopened(device, options, run)
}

/// A device under test and the name it is recorded under.
pub struct Subject {
    /// `cpu`, `wgpu-core`, `wgpu-f16`, `cuda`.
    pub name: &'static str,
    /// The device, or why it is missing.
    pub device: Result<Device, String>,
}

/// Every device the suite knows; wgpu in both tiers. The PTX emulator takes the place of a GPU, and has its own records.
pub fn subjects() -> Vec<Subject> {
    let wgpu = |tier| {
        let device = Device::wgpu(WgpuOptions {
            tier: Some(tier),
            ..Default::default()
        })
        .map_err(|e| e.to_string())?;
        if tier == Tier::F16Subgroups && !device.name().contains("f16") {
            return Err(format!("{} has no f16 or no subgroups", device.name()));
        }
        Ok(device)
    };
    let cuda = Device::cuda(0).map_err(|e| e.to_string());
    let emulated = cuda
        .as_ref()
        .is_ok_and(|d| d.name().contains("PTX emulator"));
    vec![
        Subject {
            name: "cpu",
            device: Ok(Device::cpu()),
        },
        Subject {
            name: "wgpu-core",
            device: wgpu(Tier::Core),
        },
        Subject {
            name: "wgpu-f16",
            device: wgpu(Tier::F16Subgroups),
        },
        Subject {
            name: if emulated { "cuda-emulated" } else { "cuda" },
            device: cuda,
        },
    ]
}

/// Lengths that break kernels first: around powers of two, one, and none.
pub const AWKWARD: [usize; 8] = [0, 1, 31, 33, 127, 257, 64, 1023];

/// Element types of activations that a device computes with.
pub fn activations(device: &Device) -> &'static [ElementType] {
    match device.kind() {
        DeviceKind::Cpu => &[ElementType::F32],
        DeviceKind::Cuda => &[ElementType::F16],
        _ => &[ElementType::F16, ElementType::F32],
    }
}

/// A seeded stream of numbers (splitmix64), so that every run draws the same inputs.
pub struct Noise(u64);

impl Noise {
    /// A stream of its own for each case.
    pub fn new(seed: usize) -> Self {
        Noise(seed as u64 ^ 0x6e65_6172_6d69_7373)
    }

    /// Uniform 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// About normal with standard deviation `scale` (a sum of four uniforms), already rounded to f16 so that both
    /// element types hold it exactly.
    pub fn normal(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n)
            .map(|_| {
                let sum: f64 = (0..4)
                    .map(|_| (self.bits() >> 11) as f64 / (1u64 << 53) as f64 - 0.5)
                    .sum();
                f16::from_f32((sum * 3f64.sqrt()) as f32 * scale).to_f32()
            })
            .collect()
    }
}

/// Rounds values to an element type (exact for values of [`Noise::normal`]).
pub fn cast<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&v| T::from_f32(v)).collect()
}

/// The rounding rules of a device.
pub fn rounding(device: &Device) -> Rounding {
    Rounding::of(device.kind())
}

/// An error as a line.
pub fn line(e: nearmiss::Error) -> String {
    e.to_string()
}

/// Runs `$body` with the type `$t` standing for the element type.
macro_rules! with_type {
    ($element:expr, $t:ident => $body:expr) => {
        match $element {
            nearmiss::device::ElementType::F16 => {
                type $t = half::f16;
                $body
            }
            _ => {
                type $t = f32;
                $body
            }
        }
    };
}
pub(crate) use with_type;

/// Adds up the outcomes of several runs of one case.
pub fn sum(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    outcomes
        .into_iter()
        .fold(Outcome::default(), |a, b| Outcome {
            elements: a.elements + b.elements,
            worst: a.worst.max(b.worst),
            arithmetic_f32: a.arithmetic_f32.max(b.arithmetic_f32),
            arithmetic_f16: a.arithmetic_f16.max(b.arithmetic_f16),
            rejected: a.rejected + b.rejected,
        })
}

/// Runs a case with every element type and adds up.
pub fn each(
    types: &[ElementType],
    run: impl Fn(ElementType) -> Result<Outcome, String>,
) -> Result<Outcome, String> {
    let outcomes: Result<Vec<Outcome>, String> =
        types.iter().map(|&element| run(element)).collect();
    Ok(sum(outcomes?))
}
