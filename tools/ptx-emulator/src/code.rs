//! Decoded kernels: what the interpreter runs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decode;
use crate::parse::{self, ParseError};
use crate::table::{Compare, Conversion, Fun, Ty};

/// Number of a register within its bank.
pub(crate) type Reg = u16;

/// A destination that is not written (`_`).
pub(crate) const SINK: Reg = Reg::MAX;

/// A register of either width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Any {
    W(Reg),
    D(Reg),
}

/// A predicate operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pred {
    pub reg: Reg,
    pub negated: bool,
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    None,
    W(Reg),
    D(Reg),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub base: Base,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Local,
    Const,
    Param,
}

/// Who an atomic, a fence or a strong access synchronises with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub acquire: bool,
    pub release: bool,
    /// An access that may race with other strong accesses.
    pub strong: bool,
    /// Beyond the block.
    pub wide: bool,
}

/// A load or store of up to four elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub space: Space,
    pub bytes: u8,
    /// A load of narrow signed integers, which fill wider registers with the sign.
    pub signed: bool,
    pub count: u8,
    pub regs: [Any; 4],
    pub address: Address,
    pub order: Order,
    /// `.nc`: the data may not change while the kernel runs.
    pub read_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Atom {
    pub space: Space,
    pub op: AtomOp,
    pub ty: Ty,
    /// The old value; `None` for `red`.
    pub result: Option<Any>,
    pub address: Address,
    pub a: Any,
    /// `cas`: the new value.
    pub b: Option<Any>,
    pub order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// What all named lanes of a warp, or all threads of a block, do together.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Collective {
    Shfl {
        mode: ShflMode,
        result: Reg,
        inside: Option<Reg>,
        value: Reg,
        select: Reg,
        clamp: Reg,
        members: Reg,
    },
    Vote {
        mode: VoteMode,
        result: Reg,
        input: Pred,
        members: Reg,
    },
    Match {
        all: bool,
        result: Reg,
        pred: Option<Reg>,
        value: Any,
        members: Reg,
    },
    Redux {
        op: AtomOp,
        signed: bool,
        result: Reg,
        value: Reg,
        members: Reg,
    },
    WarpBarrier {
        members: Reg,
    },
    LdMatrix {
        count: u8,
        transposed: bool,
        regs: [Reg; 4],
        address: Address,
    },
    StMatrix {
        count: u8,
        transposed: bool,
        regs: [Reg; 4],
        address: Address,
    },
    /// `mma.m16n8kK` on f16 operands; K is 8 or 16.
    Mma {
        k: u8,
        /// f32 accumulators; f16 pairs otherwise.
        wide_c: bool,
        wide_d: bool,
        d: [Reg; 4],
        a: [Reg; 4],
        b: [Reg; 2],
        c: [Reg; 4],
    },
    Barrier {
        id: Reg,
        threads: Option<Reg>,
        /// `bar.arrive`: does not wait.
        arrive: bool,
    },
}

/// An instruction without its guard.
#[derive(Clone, Copy)]
pub(crate) enum Op {
    /// A row of the table of scalar instructions.
    Lanes {
        fun: Fun,
        d: Reg,
        s: [Reg; 4],
    },
    /// A conversion that has no row of its own.
    Convert {
        conversion: Conversion,
        d: Any,
        s: Any,
        /// The register is wider than the signed type.
        extend: bool,
    },
    /// `cvt.rn.f16x2.f32 d, upper, lower`
    PackHalves {
        d: Reg,
        upper: Reg,
        lower: Reg,
        conversion: Conversion,
    },
    SetP {
        compare: Compare,
        d: Reg,
        /// The complement.
        q: Option<Reg>,
        a: Reg,
        b: Reg,
        combine: Option<(Logic, Pred)>,
    },
    /// `set`: all ones or 1.0 where the comparison holds.
    Set {
        compare: Compare,
        d: Reg,
        a: Reg,
        b: Reg,
        one: u32,
    },
    SelP {
        d: Any,
        a: Any,
        b: Any,
        p: Pred,
    },
    MovPred {
        d: Reg,
        a: Pred,
    },
    PredLogic {
        op: Logic,
        d: Reg,
        a: Pred,
        b: Pred,
    },
    /// `mov d, {..}`: parts into a wider register.
    Pack {
        d: Any,
        parts: [Any; 4],
        count: u8,
    },
    /// `mov {..}, a`
    Unpack {
        parts: [Any; 4],
        count: u8,
        a: Any,
    },
    Load(Access),
    Store(Access),
    Atomic(Atom),
    Fence(Order),
    CopyAsync {
        to: Address,
        from: Address,
        bytes: u8,
        /// Bytes to read; the rest is zero.
        source_bytes: Option<Reg>,
    },
    CopyCommit,
    /// Waits until at most so many groups are pending; `None`: for everything, committed or not.
    CopyWait(Option<u32>),
    ActiveMask {
        d: Reg,
    },
    Collective(Collective),
    Branch {
        target: u32,
    },
    Exit,
    Trap,
    /// Hints.
    Nothing,
}

#[derive(Clone, Copy)]
pub(crate) struct Instruction {
    pub op: Op,
    pub guard: Option<Pred>,
    pub line: u32,
}

/// Registers that hold one value from the start: constants and special registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    NTid(u8),
    CtaId(u8),
    NCtaId(u8),
    LaneId,
    WarpId,
    NWarpId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicShared,
    TotalShared,
}

/// What a register holds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Preset {
    Constant(u32),
    Special(Special),
}

/// A parameter of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Where it begins in the parameter buffer.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
}

/// A variable in shared memory.
#[derive(Clone, Debug)]
pub(crate) struct SharedVariable {
    pub name: String,
    pub offset: u32,
    /// 0 for the one whose size is the launch's.
    pub bytes: u32,
}

/// A decoded kernel.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub parameters: Vec<Parameter>,
    /// Bytes of the parameter buffer.
    pub parameter_bytes: usize,
    /// The most threads a block may have.
    pub max_threads: u32,
    /// Bytes of shared memory that the kernel declares itself.
    pub static_shared: u32,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    pub(crate) code: Vec<Instruction>,
    pub(crate) texts: Vec<String>,
    /// Registers per bank, by name; presets follow behind.
    pub(crate) w_names: Vec<String>,
    pub(crate) d_names: Vec<String>,
    pub(crate) p_names: Vec<String>,
    pub(crate) w_presets: Vec<Preset>,
    pub(crate) d_presets: Vec<u64>,
    pub(crate) shared_variables: Vec<SharedVariable>,
    pub(crate) constants: Vec<u8>,
    /// Blocks may depend on each other: the kernel has fences, atomics or strong accesses in global memory.
    pub(crate) dependent: bool,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.name)
            .field("parameters", &self.parameters)
            .field("max_threads", &self.max_threads)
            .field("static_shared", &self.static_shared)
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// Registers of a thread: 32-bit ones, a 64-bit one counting twice.
    pub fn registers(&self) -> usize {
        self.w_names.len() + 2 * self.d_names.len()
    }

    /// Number of instructions.
    pub fn instructions(&self) -> usize {
        self.code.len()
    }

    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self, dynamic: u32) -> u32 {
        // The variable without a size begins where its alignment puts it.
        let start = self
            .shared_variables
            .iter()
            .filter(|v| v.bytes == 0)
            .map(|v| v.offset)
            .max();
        start
            .unwrap_or(self.static_shared)
            .saturating_add(dynamic)
            .max(self.static_shared)
    }
}

/// The compute capability that the emulator offers: what `.target` may ask for at most.
pub const CAPABILITY: (u32, u32) = (8, 0);

/// The highest `.version` that is understood.
pub const VERSION: (u32, u32) = (7, 8);

/// A parsed and decoded PTX text.
#[derive(Debug)]
pub struct Module {
    entries: HashMap<String, Arc<Entry>>,
}

impl Module {
    /// Reads PTX text.
    ///
    /// # Errors
    /// A [`ParseError`] for anything that is not understood in full: nothing is guessed or skipped.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let file = parse::file(text)?;
        if let Some((version, line)) = &file.version {
            let parsed = version
                .split_once('.')
                .and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
            if parsed.is_none_or(|v| v > VERSION) {
                return Err(ParseError::new(
                    *line,
                    format!(
                        ".version {version}: at most {}.{} is understood",
                        VERSION.0, VERSION.1
                    ),
                ));
            }
        }
        if let Some((target, line)) = &file.target {
            let capability = target
                .strip_prefix("sm_")
                .and_then(|digits| digits.parse::<u32>().ok());
            let offered = 10 * CAPABILITY.0 + CAPABILITY.1;
            if capability.is_none_or(|c| c > offered) {
                return Err(ParseError::new(
                    *line,
                    format!(".target {target}: this is a device of sm_{offered}"),
                ));
            }
        }
        let mut entries = HashMap::new();
        for kernel in &file.kernels {
            let entry = decode::entry(kernel, &file.variables)?;
            if entries
                .insert(kernel.name.clone(), Arc::new(entry))
                .is_some()
            {
                return Err(ParseError::new(
                    kernel.line,
                    format!("a second entry {}", kernel.name),
                ));
            }
        }
        Ok(Module { entries })
    }

    /// The kernel of this name.
    pub fn entry(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    /// All kernels.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }
}

/// A register of any kind that an instruction writes.
pub(crate) enum Written {
    Register(Any),
    Predicate(Reg),
}

impl Op {
    /// What an instruction writes, for traces.
    pub fn results(&self) -> Vec<Written> {
        let all = |regs: &[Any]| regs.to_vec();
        let words = |regs: &[Reg]| regs.iter().map(|r| Any::W(*r)).collect::<Vec<_>>();
        let (registers, predicates) = match self {
            Op::Lanes { fun, d, .. } => {
                let wide = matches!(
                    fun,
                    Fun::DtoD(_)
                        | Fun::DDtoD(_)
                        | Fun::DDDtoD(_)
                        | Fun::DWtoD(_)
                        | Fun::DWWtoD(_)
                        | Fun::DDWWtoD(_)
                        | Fun::WtoD(_)
                        | Fun::WWtoD(_)
                        | Fun::WWDtoD(_)
                );
                (vec![if wide { Any::D(*d) } else { Any::W(*d) }], vec![])
            }
            Op::Convert { d, .. } | Op::SelP { d, .. } | Op::Pack { d, .. } => (vec![*d], vec![]),
            Op::PackHalves { d, .. } | Op::Set { d, .. } | Op::ActiveMask { d } => {
                (words(&[*d]), vec![])
            }
            Op::SetP { d, q, .. } => (vec![], [Some(*d), *q].into_iter().flatten().collect()),
            Op::MovPred { d, .. } | Op::PredLogic { d, .. } => (vec![], vec![*d]),
            Op::Unpack { parts, count, .. } => (all(&parts[..usize::from(*count)]), vec![]),
            Op::Load(access) => (all(&access.regs[..usize::from(access.count)]), vec![]),
            Op::Atomic(atom) => (atom.result.into_iter().collect(), vec![]),
            Op::Collective(c) => match c {
                Collective::Shfl { result, inside, .. } => {
                    (words(&[*result]), inside.iter().copied().collect())
                }
                Collective::Vote { mode, result, .. } => match mode {
                    VoteMode::Ballot => (words(&[*result]), vec![]),
                    _ => (vec![], vec![*result]),
                },
                Collective::Match { result, pred, .. } => {
                    (words(&[*result]), pred.iter().copied().collect())
                }
                Collective::Redux { result, .. } => (words(&[*result]), vec![]),
                Collective::LdMatrix { regs, count, .. } => {
                    (words(&regs[..usize::from(*count)]), vec![])
                }
                Collective::Mma { d, wide_d, .. } => {
                    (words(&d[..if *wide_d { 4 } else { 2 }]), vec![])
                }
                _ => (vec![], vec![]),
            },
            _ => (vec![], vec![]),
        };
        let registers = registers
            .into_iter()
            .filter(|r| !matches!(r, Any::W(SINK) | Any::D(SINK)))
            .map(Written::Register);
        let predicates = predicates
            .into_iter()
            .filter(|p| *p != SINK)
            .map(Written::Predicate);
        registers.chain(predicates).collect()
    }
}

impl Entry {
    /// The name of a register.
    pub(crate) fn name_of(&self, register: Any) -> &str {
        let name = match register {
            Any::W(r) => self.w_names.get(usize::from(r)),
            Any::D(r) => self.d_names.get(usize::from(r)),
        };
        name.map_or("(constant)", String::as_str)
    }
}
