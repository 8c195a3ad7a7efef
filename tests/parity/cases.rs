//! The parity suite: every operator, on a device, against its reference in f64, within its derived bound.
//!
//! A case draws random inputs, runs the operator, and compares each output element with the reference; it also runs a
//! **broken variant** (a tile dropped, a mask ignored, two rows exchanged) through the same device and the same
//! comparison, and fails unless that is rejected. What was compared is kept as a [`Record`], from which the operator
//! table is made.

use half::f16;
use nearmiss::device::{Device, DeviceKind, ElementType, Float, WgpuOptions};
use nearmiss::ops::Rounding;
pub use nearmiss::ops::table::{Record, Records};

mod attention;
mod cosine_topk;
mod embedding;
mod layer_norm;
mod matmul;
mod maxsim;
mod pool;
mod similarity_map;
mod soft_alignment;

/// Runs a case on a device.
pub type Run = Box<dyn Fn(&Device) -> Result<Option<Outcome>, String> + Send + Sync>;

/// One case of one operator.
pub struct Case {
    /// Operator name, as in `nearmiss::ops::ALL`.
    pub op: &'static str,
    /// Sizes and element types, readable.
    pub name: String,
    /// Runs it; `Ok(None)` where the device does not take these element types.
    pub run: Run,
}

/// What a case compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Output elements held against the reference.
    pub elements: u64,
    /// Largest `error / bound`; at most 1 in a passing case.
    pub worst: f64,
    /// Broken variants that were rejected.
    pub rejected: u64,
}

/// Adds a passing case to an operator's record.
pub fn add(record: &mut Record, outcome: Outcome) {
    record.cases += 1;
    record.elements += outcome.elements;
    record.worst_ratio = record.worst_ratio.max(outcome.worst);
    record.broken_rejected += outcome.rejected;
}

/// All cases of all operators.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(embedding::cases());
    cases.extend(layer_norm::cases());
    cases.extend(matmul::cases());
    cases.extend(attention::cases());
    cases.extend(pool::cases());
    cases.extend(cosine_topk::cases());
    cases.extend(similarity_map::cases());
    cases.extend(maxsim::cases());
    cases.extend(soft_alignment::cases());
    cases
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
    use nearmiss::device::Tier;
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

/// Largest `|got - want| / bound`; infinite for a NaN, a missing element, or an error where the bound is 0.
pub fn worst_ratio<T: Float>(got: &[T], want: &[f64], bound: &[f64]) -> f64 {
    if got.len() != want.len() || want.len() != bound.len() {
        return f64::INFINITY;
    }
    got.iter()
        .zip(want.iter().zip(bound))
        .map(|(got, (want, bound))| {
            let error = (f64::from(got.to_f32()) - want).abs();
            if error == 0.0 {
                0.0
            } else if error.is_finite() && *bound > 0.0 {
                error / bound
            } else {
                f64::INFINITY
            }
        })
        .fold(0.0, f64::max)
}

/// Judges a result and, if there is one, its broken variant.
pub fn judge<T: Float>(
    got: &[T],
    broken: Option<&[T]>,
    want: &[f64],
    bound: &[f64],
) -> Result<Outcome, String> {
    let worst = worst_ratio(got, want, bound);
    if worst > 1.0 {
        return Err(format!("error is {worst:.3} times the bound"));
    }
    if let Some(broken) = broken {
        let ratio = worst_ratio(broken, want, bound);
        if ratio <= 1.0 {
            return Err(format!(
                "the broken variant passes ({ratio:.3} times the bound): the test cannot fail"
            ));
        }
    }
    Ok(Outcome {
        elements: want.len() as u64,
        worst,
        rejected: u64::from(broken.is_some()),
    })
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
pub fn sum(outcomes: impl IntoIterator<Item = Outcome>) -> Option<Outcome> {
    outcomes.into_iter().reduce(|a, b| Outcome {
        elements: a.elements + b.elements,
        worst: a.worst.max(b.worst),
        rejected: a.rejected + b.rejected,
    })
}
