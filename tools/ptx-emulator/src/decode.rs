//! From statements to instructions: names are resolved, types checked, and every modifier accounted for.

use std::collections::HashMap;

use crate::code::*;
use crate::parse::{Item, Kernel, Operand, ParseError, Statement, Variable, size_of};
use crate::scalar::Round;
use crate::table::{Conversion, Fun, Modifiers, Ty, compare, scalar};

type Result<T> = std::result::Result<T, ParseError>;

/// What a name stands for.
#[derive(Clone, Copy)]
enum Meaning {
    Register(Ty, Reg),
    Shared(u32),
    Const(u32),
    Local(u32),
}

struct Decoder<'a> {
    kernel: &'a Kernel,
    scopes: Vec<HashMap<String, Meaning>>,
    labels: HashMap<&'a str, u32>,
    parameters: Vec<Parameter>,
    w_names: Vec<String>,
    d_names: Vec<String>,
    p_names: Vec<String>,
    w_presets: Vec<Preset>,
    d_presets: Vec<u64>,
    shared: Vec<SharedVariable>,
    shared_bytes: u32,
    /// Bytes of all shared variables that have a size.
    sized_shared: u32,
    constants: Vec<u8>,
    local_bytes: u32,
}

/// Presets are numbered from here until the number of declared registers is known.
const PRESET: Reg = 0x8000;

/// Decodes one kernel; `variables` are those of the file.
pub(crate) fn entry(kernel: &Kernel, variables: &[Variable]) -> Result<Entry> {
    let mut parameters = Vec::new();
    let mut offset = 0usize;
    for (class, name, line) in &kernel.parameters {
        let Some(bytes) = size_of(class) else {
            return Err(ParseError::new(
                *line,
                format!("parameter {name} of unknown type {class}"),
            ));
        };
        let bytes = bytes as usize;
        offset = offset.next_multiple_of(bytes);
        parameters.push(Parameter {
            name: name.clone(),
            offset,
            bytes,
        });
        offset += bytes;
    }
    let mut decoder = Decoder {
        kernel,
        scopes: vec![HashMap::new()],
        labels: HashMap::new(),
        parameters,
        w_names: Vec::new(),
        d_names: Vec::new(),
        p_names: Vec::new(),
        w_presets: Vec::new(),
        d_presets: Vec::new(),
        shared: Vec::new(),
        shared_bytes: 0,
        sized_shared: sized_shared(kernel, variables),
        constants: Vec::new(),
        local_bytes: 0,
    };
    for variable in variables {
        decoder.variable(variable)?;
    }
    decoder.entry(offset)
}

/// Where the shared variables that have a size end, those of the file first.
fn sized_shared(kernel: &Kernel, variables: &[Variable]) -> u32 {
    let inside = kernel.body.iter().filter_map(|item| match item {
        Item::Variable(v) => Some(v),
        _ => None,
    });
    let shared = variables
        .iter()
        .chain(inside)
        .filter(|v| v.space == "shared");
    shared
        .fold(0u64, |end, v| match v.count {
            Some(n) => end
                .next_multiple_of(v.align.max(1))
                .saturating_add(n.saturating_mul(v.element)),
            None => end,
        })
        .min(1 << 24) as u32
}

fn fail<T>(line: u32, message: impl Into<String>) -> Result<T> {
    Err(ParseError::new(line, message))
}

impl<'a> Decoder<'a> {
    fn entry(mut self, parameter_bytes: usize) -> Result<Entry> {
        let kernel = self.kernel;
        // Labels first: branches may lead forward.
        let mut next = 0u32;
        for item in &kernel.body {
            match item {
                Item::Instruction(_) => next += 1,
                Item::Label(name, line) if self.labels.insert(name, next).is_some() => {
                    return fail(*line, format!("a second label {name}"));
                }
                _ => {}
            }
        }
        let (mut code, mut texts) = (Vec::new(), Vec::new());
        for item in &kernel.body {
            match item {
                Item::Open => self.scopes.push(HashMap::new()),
                Item::Close => {
                    self.scopes.pop();
                }
                Item::Label(..) => {}
                Item::Registers { class, names, line } => self.registers(class, names, *line)?,
                Item::Variable(variable) => self.variable(variable)?,
                Item::Instruction(statement) => {
                    code.push(self.instruction(statement)?);
                    texts.push(statement.text.clone());
                }
            }
        }
        // Running off the end is returning.
        code.push(Instruction {
            op: Op::Exit,
            guard: None,
            line: kernel.line,
        });
        texts.push("(end of the kernel)".into());
        for instruction in &mut code {
            self.place_presets(&mut instruction.op);
        }
        let dependent = code.iter().any(|i| match i.op {
            Op::Fence(order) => order.wide,
            Op::Atomic(atom) => atom.space == Space::Global,
            Op::Load(access) | Op::Store(access) => {
                access.space == Space::Global && access.order.strong
            }
            _ => false,
        });
        Ok(Entry {
            name: kernel.name.clone(),
            parameters: self.parameters,
            parameter_bytes,
            max_threads: kernel.max_threads.unwrap_or(1024),
            static_shared: self.shared_bytes,
            local_bytes: self.local_bytes,
            code,
            texts,
            w_names: self.w_names,
            d_names: self.d_names,
            p_names: self.p_names,
            w_presets: self.w_presets,
            d_presets: self.d_presets,
            shared_variables: self.shared,
            constants: self.constants,
            dependent,
        })
    }

    fn registers(&mut self, class: &str, names: &[String], line: u32) -> Result<()> {
        let Some(ty) = Ty::parse(class.trim_start_matches('.')) else {
            return fail(line, format!("unknown register type {class}"));
        };
        for name in names {
            let bank = match ty {
                Ty::Pred => &mut self.p_names,
                _ if ty.is_wide() => &mut self.d_names,
                _ => &mut self.w_names,
            };
            if bank.len() >= usize::from(PRESET) {
                return fail(line, "more than 32,768 registers");
            }
            let reg = bank.len() as Reg;
            bank.push(name.clone());
            let scope = self.scopes.last_mut().expect("never empty");
            if scope
                .insert(name.clone(), Meaning::Register(ty, reg))
                .is_some()
            {
                return fail(line, format!("{name} is declared twice"));
            }
        }
        Ok(())
    }

    fn variable(&mut self, v: &Variable) -> Result<()> {
        let bytes = v.count.map(|n| n * v.element);
        if bytes.is_some_and(|b| b > 1 << 24) {
            return fail(v.line, format!("{} is larger than 16 MiB", v.name));
        }
        let place = |end: u32| end.next_multiple_of(v.align.max(1) as u32);
        let meaning = match v.space.as_str() {
            "shared" => {
                if !v.values.is_empty() {
                    return fail(v.line, "shared memory has no initial values");
                }
                // The one without a size lies behind all others.
                let offset = place(match bytes {
                    Some(_) => self.shared_bytes,
                    None => self.sized_shared,
                });
                if let Some(bytes) = bytes {
                    self.shared_bytes = offset + bytes as u32;
                }
                self.shared.push(SharedVariable {
                    name: v.name.clone(),
                    offset,
                    bytes: bytes.unwrap_or(0) as u32,
                });
                Meaning::Shared(offset)
            }
            "local" => {
                let Some(bytes) = bytes else {
                    return fail(v.line, format!("{} has no size", v.name));
                };
                let offset = place(self.local_bytes);
                self.local_bytes = offset + bytes as u32;
                Meaning::Local(offset)
            }
            "const" => {
                let Some(bytes) = bytes else {
                    return fail(v.line, format!("{} has no size", v.name));
                };
                let offset = place(self.constants.len() as u32);
                self.constants.resize(offset as usize, 0);
                for value in &v.values {
                    let bits = match *value {
                        Operand::Int(i) => i,
                        Operand::Bits32(b) if v.element == 4 => b.into(),
                        Operand::Bits64(b) if v.element == 8 => b,
                        Operand::Float(f) if v.element == 4 => (f as f32).to_bits().into(),
                        Operand::Float(f) if v.element == 8 => f.to_bits(),
                        _ => {
                            return fail(
                                v.line,
                                format!("an initial value of {} does not fit", v.name),
                            );
                        }
                    };
                    self.constants
                        .extend(&bits.to_le_bytes()[..v.element as usize]);
                }
                self.constants.resize(offset as usize + bytes as usize, 0);
                Meaning::Const(offset)
            }
            space => return fail(v.line, format!("variables in .{space} are not understood")),
        };
        let scope = self.scopes.last_mut().expect("never empty");
        if scope.insert(v.name.clone(), meaning).is_some() {
            return fail(v.line, format!("{} is declared twice", v.name));
        }
        Ok(())
    }

    /// Presets move behind the declared registers.
    fn place_presets(&self, op: &mut Op) {
        let (w, d) = (self.w_names.len() as Reg, self.d_names.len() as Reg);
        let fix_w = |r: &mut Reg| {
            if *r >= PRESET && *r != SINK {
                *r = *r - PRESET + w;
            }
        };
        let fix_d = |r: &mut Reg| {
            if *r >= PRESET && *r != SINK {
                *r = *r - PRESET + d;
            }
        };
        let fix = |r: &mut Any| match r {
            Any::W(r) => fix_w(r),
            Any::D(r) => fix_d(r),
        };
        let fix_address = |a: &mut Address| match &mut a.base {
            Base::W(r) => fix_w(r),
            Base::D(r) => fix_d(r),
            Base::None => {}
        };
        match op {
            Op::Lanes { fun, s, .. } => {
                let banks: &[bool] = match fun {
                    Fun::WtoW(_) | Fun::WtoD(_) => &[false],
                    Fun::WWtoW(_) | Fun::WWtoD(_) => &[false, false],
                    Fun::WWWtoW(_) => &[false; 3],
                    Fun::WWWWtoW(_) => &[false; 4],
                    Fun::DtoD(_) | Fun::DtoW(_) => &[true],
                    Fun::DDtoD(_) => &[true, true],
                    Fun::DDDtoD(_) => &[true; 3],
                    Fun::DWtoD(_) => &[true, false],
                    Fun::DWWtoD(_) => &[true, false, false],
                    Fun::DDWWtoD(_) => &[true, true, false, false],
                    Fun::WWDtoD(_) => &[false, false, true],
                };
                for (r, wide) in s.iter_mut().zip(banks) {
                    if *wide { fix_d(r) } else { fix_w(r) }
                }
            }
            Op::Convert { s, .. } => fix(s),
            Op::PackHalves { upper, lower, .. } => {
                fix_w(upper);
                fix_w(lower);
            }
            Op::SetP { compare, a, b, .. } | Op::Set { compare, a, b, .. } => match compare {
                crate::table::Compare::W(_) => {
                    fix_w(a);
                    fix_w(b);
                }
                crate::table::Compare::D(_) => {
                    fix_d(a);
                    fix_d(b);
                }
            },
            Op::SelP { a, b, .. } => {
                fix(a);
                fix(b);
            }
            Op::Pack { parts, count, .. } => parts[..usize::from(*count)].iter_mut().for_each(fix),
            Op::Unpack { a, .. } => fix(a),
            Op::Load(access) => fix_address(&mut access.address),
            Op::Store(access) => {
                fix_address(&mut access.address);
                access.regs[..usize::from(access.count)]
                    .iter_mut()
                    .for_each(fix);
            }
            Op::Atomic(atom) => {
                fix_address(&mut atom.address);
                fix(&mut atom.a);
                atom.b.iter_mut().for_each(fix);
            }
            Op::CopyAsync {
                to,
                from,
                source_bytes,
                ..
            } => {
                fix_address(to);
                fix_address(from);
                source_bytes.iter_mut().for_each(fix_w);
            }
            Op::Collective(collective) => match collective {
                Collective::Shfl {
                    value,
                    select,
                    clamp,
                    members,
                    ..
                } => [value, select, clamp, members].into_iter().for_each(fix_w),
                Collective::Vote { members, .. } | Collective::WarpBarrier { members } => {
                    fix_w(members);
                }
                Collective::Match { value, members, .. } => {
                    fix(value);
                    fix_w(members);
                }
                Collective::Redux { value, members, .. } => {
                    fix_w(value);
                    fix_w(members);
                }
                Collective::LdMatrix { address, .. } => fix_address(address),
                Collective::StMatrix {
                    address,
                    regs,
                    count,
                    ..
                } => {
                    fix_address(address);
                    regs[..usize::from(*count)].iter_mut().for_each(fix_w);
                }
                Collective::Mma { a, b, c, .. } => {
                    a.iter_mut().chain(b).chain(c).for_each(fix_w);
                }
                Collective::Barrier { id, threads, .. } => {
                    fix_w(id);
                    threads.iter_mut().for_each(fix_w);
                }
            },
            _ => {}
        }
    }

    fn instruction(&mut self, s: &Statement) -> Result<Instruction> {
        let guard = match &s.guard {
            None => None,
            Some((name, negated)) => {
                let reg = self.predicate(s, name)?;
                Some(Pred {
                    reg,
                    negated: *negated,
                })
            }
        };
        Ok(Instruction {
            op: self.op(s)?,
            guard,
            line: s.line,
        })
    }

    // ---- Operands ----

    fn error<T>(&self, s: &Statement, message: impl std::fmt::Display) -> Result<T> {
        fail(s.line, format!("{message} in `{}`", s.text))
    }

    fn meaning(&self, name: &str) -> Option<Meaning> {
        self.scopes
            .iter()
            .rev()
            .find_map(|scope| scope.get(name))
            .copied()
    }

    fn predicate(&self, s: &Statement, name: &str) -> Result<Reg> {
        match self.meaning(name) {
            Some(Meaning::Register(Ty::Pred, reg)) => Ok(reg),
            Some(_) => self.error(s, format!("{name} is not a predicate")),
            None => self.error(s, format!("unknown name {name}")),
        }
    }

    fn predicate_operand(&self, s: &Statement, i: usize) -> Result<Pred> {
        match self.operand(s, i)? {
            Operand::Name(name) => Ok(Pred {
                reg: self.predicate(s, name)?,
                negated: false,
            }),
            Operand::Not(name) => Ok(Pred {
                reg: self.predicate(s, name)?,
                negated: true,
            }),
            _ => self.error(s, format!("operand {} must be a predicate", i + 1)),
        }
    }

    fn operand<'s>(&self, s: &'s Statement, i: usize) -> Result<&'s Operand> {
        match s.operands.get(i) {
            Some(operand) => Ok(operand),
            None => self.error(s, format!("operand {} is missing", i + 1)),
        }
    }

    fn count(&self, s: &Statement, counts: std::ops::RangeInclusive<usize>) -> Result<()> {
        if counts.contains(&s.operands.len()) {
            return Ok(());
        }
        self.error(
            s,
            format!(
                "{} operands where {} belong",
                s.operands.len(),
                counts.start()
            ),
        )
    }

    /// Whether a register declared as `declared` may be an operand of type `used`.
    fn agrees(declared: Ty, used: Ty) -> bool {
        if declared == Ty::Pred || used == Ty::Pred {
            return declared == used;
        }
        declared.bytes() == used.bytes()
            && (declared == used
                || declared.is_untyped()
                || used.is_untyped()
                || (declared.is_integer() && used.is_integer()))
    }

    /// A register to be written.
    fn result(&self, s: &Statement, operand: &Operand, ty: Ty) -> Result<Any> {
        let Operand::Name(name) = operand else {
            return self.error(s, "the result must be a register");
        };
        if name == "_" {
            return Ok(if ty.is_wide() {
                Any::D(SINK)
            } else {
                Any::W(SINK)
            });
        }
        match self.meaning(name) {
            Some(Meaning::Register(declared, reg)) if Self::agrees(declared, ty) => {
                Ok(any(declared, reg))
            }
            Some(Meaning::Register(declared, _)) => self.error(
                s,
                format!("{name} is declared .{declared:?} and used as .{ty:?}").to_lowercase(),
            ),
            Some(_) => self.error(s, format!("{name} is not a register")),
            None => self.error(s, format!("unknown name {name}")),
        }
    }

    fn result_w(&self, s: &Statement, operand: &Operand, ty: Ty) -> Result<Reg> {
        match self.result(s, operand, ty)? {
            Any::W(reg) => Ok(reg),
            Any::D(_) => self.error(s, "a 64-bit result"),
        }
    }

    fn preset(&mut self, preset: Preset) -> Reg {
        let known = self.w_presets.iter().position(|p| *p == preset);
        let i = known.unwrap_or_else(|| {
            self.w_presets.push(preset);
            self.w_presets.len() - 1
        });
        PRESET + i as Reg
    }

    fn constant(&mut self, bits: u64, ty: Ty) -> Any {
        if ty.is_wide() {
            let known = self.d_presets.iter().position(|p| *p == bits);
            let i = known.unwrap_or_else(|| {
                self.d_presets.push(bits);
                self.d_presets.len() - 1
            });
            return Any::D(PRESET + i as Reg);
        }
        let width = 8 * ty.bytes().max(1);
        let cut = if width >= 32 {
            bits as u32
        } else {
            bits as u32 & ((1 << width) - 1)
        };
        Any::W(self.preset(Preset::Constant(cut)))
    }

    /// A value to be read: a register, a constant, a special register or the address of a variable.
    fn source(&mut self, s: &Statement, operand: &Operand, ty: Ty) -> Result<Any> {
        let bits = match operand {
            Operand::Int(v) if !ty.is_float() => *v,
            Operand::Int(v) if matches!(ty, Ty::F16x2) => *v,
            Operand::Bits32(b) if ty.bytes() == 4 && !ty.is_signed() && ty != Ty::U32 => {
                (*b).into()
            }
            Operand::Bits64(b) if matches!(ty, Ty::F64 | Ty::B64) => *b,
            Operand::Float(v) if ty == Ty::F32 => (*v as f32).to_bits().into(),
            Operand::Float(v) if ty == Ty::F64 => v.to_bits(),
            Operand::Name(name) => match self.meaning(name) {
                Some(Meaning::Register(declared, reg)) if Self::agrees(declared, ty) => {
                    return Ok(any(declared, reg));
                }
                Some(Meaning::Register(declared, _)) => {
                    return self.error(
                        s,
                        format!("{name} is declared .{declared:?} and used as .{ty:?}")
                            .to_lowercase(),
                    );
                }
                Some(Meaning::Shared(offset) | Meaning::Const(offset) | Meaning::Local(offset)) => {
                    if !ty.is_integer() || ty.bytes() < 4 {
                        return self.error(s, format!("the address of {name} as .{ty:?}"));
                    }
                    offset.into()
                }
                None => match special(name) {
                    Some(_) if !matches!(s.opcode[0].as_str(), "mov" | "cvt") => {
                        return self.error(s, format!("{name} is an operand for mov and cvt only"));
                    }
                    Some(special) if ty.bytes() == 4 && ty.is_integer() => {
                        return Ok(Any::W(self.preset(Preset::Special(special))));
                    }
                    Some(_) => return self.error(s, format!("{name} has 32 bits")),
                    None if name == "WARP_SZ" => 32,
                    None => return self.error(s, format!("unknown name {name}")),
                },
            },
            _ => return self.error(s, format!("an operand that is no .{ty:?}").to_lowercase()),
        };
        Ok(self.constant(bits, ty))
    }

    fn source_w(&mut self, s: &Statement, operand: &Operand, ty: Ty) -> Result<Reg> {
        match self.source(s, operand, ty)? {
            Any::W(reg) => Ok(reg),
            Any::D(_) => self.error(s, "a 64-bit operand"),
        }
    }

    /// An address in `space`. Shared, local and constant addresses may be 32-bit; the others are 64-bit.
    fn address(&mut self, s: &Statement, operand: &Operand, space: Space) -> Result<Address> {
        let Operand::Address(base, offset) = operand else {
            return self.error(s, "an address in brackets is expected");
        };
        let mut offset = *offset;
        let base = match base {
            None => Base::None,
            Some(name) => match (self.meaning(name), space) {
                (Some(Meaning::Register(ty, reg)), _) if ty.is_integer() && ty.bytes() == 8 => {
                    Base::D(reg)
                }
                (Some(Meaning::Register(ty, reg)), Space::Shared | Space::Local | Space::Const)
                    if ty.is_integer() && ty.bytes() == 4 =>
                {
                    Base::W(reg)
                }
                (Some(Meaning::Shared(at)), Space::Shared)
                | (Some(Meaning::Local(at)), Space::Local)
                | (Some(Meaning::Const(at)), Space::Const) => {
                    offset += i64::from(at);
                    Base::None
                }
                (None, Space::Param) => {
                    let Some(p) = self.parameters.iter().find(|p| p.name == *name) else {
                        return self.error(s, format!("unknown parameter {name}"));
                    };
                    offset += p.offset as i64;
                    Base::None
                }
                (None, _) => return self.error(s, format!("unknown name {name}")),
                _ => {
                    return self.error(
                        s,
                        format!("{name} is no address in .{space:?}").to_lowercase(),
                    );
                }
            },
        };
        Ok(Address { base, offset })
    }

    // ---- Instructions ----

    fn op(&mut self, s: &Statement) -> Result<Op> {
        let mut m = Modifiers::new(&s.opcode);
        let op = self.op_with(s, &mut m)?;
        if let Some(word) = m.rest().first() {
            return self.error(s, format!("unknown modifier .{word}"));
        }
        Ok(op)
    }

    fn op_with(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        match s.opcode[0].as_str() {
            "ld" | "ldu" => self.load(s, m),
            "st" => self.store(s, m),
            "mov" => self.mov(s, m),
            "cvt" => self.cvt(s, m),
            "cvta" => {
                let _ = m.take("to");
                if !m.take("global") || m.ty() != Some(Ty::U64) {
                    return self.error(s, "only cvta(.to).global.u64 is understood");
                }
                self.count(s, 2..=2)?;
                let d = self.result(s, &s.operands[0], Ty::U64)?;
                let a = self.source(s, &s.operands[1], Ty::U64)?;
                let (Any::D(d), Any::D(a)) = (d, a) else {
                    return self.error(s, "64-bit operands are expected");
                };
                Ok(Op::Lanes {
                    fun: Fun::DtoD(|m, d, x| crate::table::each(m, d, |l| x[l].get())),
                    d,
                    s: [a, 0, 0, 0],
                })
            }
            "setp" | "set" => self.setp(s, m),
            "selp" => {
                let Some(ty) = m.ty() else {
                    return self.error(s, "a type is missing");
                };
                self.count(s, 4..=4)?;
                Ok(Op::SelP {
                    d: self.result(s, &s.operands[0], ty)?,
                    a: self.source(s, &s.operands[1], ty)?,
                    b: self.source(s, &s.operands[2], ty)?,
                    p: self.predicate_operand(s, 3)?,
                })
            }
            "and" | "or" | "xor" | "not" if m.rest() == ["pred"] => {
                m.ty();
                let Pred { reg: d, .. } = self.predicate_operand(s, 0)?;
                let a = self.predicate_operand(s, 1)?;
                if s.opcode[0] == "not" {
                    self.count(s, 2..=2)?;
                    return Ok(Op::MovPred {
                        d,
                        a: Pred {
                            negated: !a.negated,
                            ..a
                        },
                    });
                }
                self.count(s, 3..=3)?;
                Ok(Op::PredLogic {
                    op: logic(&s.opcode[0]).expect("matched above"),
                    d,
                    a,
                    b: self.predicate_operand(s, 2)?,
                })
            }
            "bra" => {
                m.take("uni");
                self.count(s, 1..=1)?;
                match &s.operands[0] {
                    Operand::Name(name) => match self.labels.get(name.as_str()) {
                        Some(&target) => Ok(Op::Branch { target }),
                        None => self.error(s, format!("unknown label {name}")),
                    },
                    _ => self.error(s, "a label is expected"),
                }
            }
            "ret" | "exit" => {
                m.take("uni");
                self.count(s, 0..=0)?;
                Ok(Op::Exit)
            }
            "trap" => {
                self.count(s, 0..=0)?;
                Ok(Op::Trap)
            }
            "prefetch" | "prefetchu" => {
                m.take("global");
                m.take("L1");
                m.take("L2");
                self.count(s, 1..=1)?;
                self.address(s, &s.operands[0], Space::Global)?;
                Ok(Op::Nothing)
            }
            "bar" | "barrier" => self.barrier(s, m),
            "fence" | "membar" => self.fence(s, m),
            "atom" | "red" => self.atomic(s, m),
            "cp" => self.copy(s, m),
            "shfl" => self.shfl(s, m),
            "vote" => self.vote(s, m),
            "match" => self.match_(s, m),
            "redux" => self.redux(s, m),
            "activemask" => {
                if m.ty() != Some(Ty::B32) {
                    return self.error(s, "activemask has type .b32");
                }
                self.count(s, 1..=1)?;
                Ok(Op::ActiveMask {
                    d: self.result_w(s, &s.operands[0], Ty::B32)?,
                })
            }
            "ldmatrix" | "stmatrix" => self.matrix(s, m),
            "mma" => self.mma(s, m),
            name => self.scalar(s, name, m),
        }
    }

    fn scalar(&mut self, s: &Statement, name: &str, m: &mut Modifiers<'_>) -> Result<Op> {
        let Some(row) = scalar(name, m) else {
            return self.error(s, format!("unknown instruction {}", s.opcode.join(".")));
        };
        self.count(s, row.operands.len() + 1..=row.operands.len() + 1)?;
        let (Any::W(d) | Any::D(d)) = self.result(s, &s.operands[0], row.result)?;
        if d == SINK {
            return self.error(s, "the result must be a register");
        }
        let mut sources = [0; 4];
        for (i, ty) in row.operands.iter().enumerate() {
            let (Any::W(r) | Any::D(r)) = self.source(s, &s.operands[i + 1], *ty)?;
            sources[i] = r;
        }
        Ok(Op::Lanes {
            fun: row.fun,
            d,
            s: sources,
        })
    }

    fn mov(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        self.count(s, 2..=2)?;
        if m.rest() == ["pred"] {
            m.ty();
            let Pred { reg: d, .. } = self.predicate_operand(s, 0)?;
            return Ok(Op::MovPred {
                d,
                a: self.predicate_operand(s, 1)?,
            });
        }
        let parts_of = |whole: Ty, n: usize| match (whole.bytes() as usize / n.max(1), n) {
            (2, 2 | 4) => Some(Ty::B16),
            (4, 2) => Some(Ty::B32),
            _ => None,
        };
        match (&s.operands[0], &s.operands[1]) {
            (d, Operand::Vector(parts)) => {
                let Some(ty) = m.ty() else {
                    return self.error(s, "a type is missing");
                };
                let Some(part) = parts_of(ty, parts.len()) else {
                    return self.error(s, format!("{} parts", parts.len()));
                };
                let d = self.result(s, d, ty)?;
                let mut regs = [Any::W(0); 4];
                for (reg, operand) in regs.iter_mut().zip(parts) {
                    *reg = self.source(s, operand, part)?;
                }
                Ok(Op::Pack {
                    d,
                    parts: regs,
                    count: parts.len() as u8,
                })
            }
            (Operand::Vector(parts), a) => {
                let Some(ty) = m.ty() else {
                    return self.error(s, "a type is missing");
                };
                let Some(part) = parts_of(ty, parts.len()) else {
                    return self.error(s, format!("{} parts", parts.len()));
                };
                let a = self.source(s, a, ty)?;
                let mut regs = [Any::W(SINK); 4];
                for (reg, operand) in regs.iter_mut().zip(parts) {
                    *reg = self.result(s, operand, part)?;
                }
                Ok(Op::Unpack {
                    parts: regs,
                    count: parts.len() as u8,
                    a,
                })
            }
            _ => self.scalar(s, "mov", m),
        }
    }

    fn cvt(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        let (Some(from), Some(to)) = (m.ty(), m.ty()) else {
            return self.error(s, "two types are expected");
        };
        let ftz = m.take("ftz");
        let sat = m.take("sat");
        let to_integer = m.one_of(&[
            ("rni", Round::Nearest),
            ("rzi", Round::Zero),
            ("rmi", Round::Down),
            ("rpi", Round::Up),
        ]);
        let round = m.round();
        let conversion = |to, from| Conversion {
            to,
            from,
            round: round.or(to_integer).unwrap_or(Round::Nearest),
            integral: to_integer.is_some() && from == to,
            ftz,
            sat,
        };
        if to == Ty::F16x2 {
            if from != Ty::F32 || round.is_none() || to_integer.is_some() {
                return self.error(
                    s,
                    "only cvt.rn.f16x2.f32 and cvt.rz.f16x2.f32 are understood",
                );
            }
            self.count(s, 3..=3)?;
            return Ok(Op::PackHalves {
                d: self.result_w(s, &s.operands[0], to)?,
                upper: self.source_w(s, &s.operands[1], from)?,
                lower: self.source_w(s, &s.operands[2], from)?,
                conversion: conversion(Ty::F16, from),
            });
        }
        self.count(s, 2..=2)?;
        // What the ISA asks for: a rounding where one can happen, and none elsewhere.
        let narrows = to.is_float() && (from.is_integer() || to.bytes() < from.bytes());
        let to_int = to.is_integer() && from.is_float();
        let same_float = to.is_float() && to == from;
        let proper = if narrows {
            round.is_some() && to_integer.is_none()
        } else if to_int {
            to_integer.is_some() && round.is_none()
        } else if same_float {
            round.is_none()
        } else {
            round.is_none() && to_integer.is_none()
        };
        if !proper {
            return self.error(s, "a rounding modifier is missing or does not belong");
        }
        if to == Ty::Pred || from == Ty::Pred || from == Ty::F16x2 {
            return self.error(s, "a conversion that does not exist");
        }
        let conversion = conversion(to, from);
        // Integer operands may be wider registers than the type; floats may not.
        let d = self.wider(s, &s.operands[0], to, true)?;
        let a = self.wider(s, &s.operands[1], from, false)?;
        let plain = matches!((d, to.is_wide()), (Any::W(_), false) | (Any::D(_), true))
            && matches!((a, from.is_wide()), (Any::W(_), false) | (Any::D(_), true));
        if plain && let Some(fun) = conversion.fast() {
            let (Any::W(d) | Any::D(d), Any::W(a) | Any::D(a)) = (d, a);
            return Ok(Op::Lanes {
                fun,
                d,
                s: [a, 0, 0, 0],
            });
        }
        Ok(Op::Convert {
            conversion,
            d,
            s: a,
            extend: self.extends(&s.operands[0], to),
        })
    }

    /// Whether a value of this type, put into the operand, is sign-extended: the register is wider.
    fn extends(&self, operand: &Operand, ty: Ty) -> bool {
        let Operand::Name(name) = operand else {
            return false;
        };
        ty.is_signed()
            && matches!(self.meaning(name), Some(Meaning::Register(declared, _)) if declared.bytes() > ty.bytes())
    }

    /// An operand of a load, store or conversion: integer registers may be wider than the type.
    fn wider(&mut self, s: &Statement, operand: &Operand, ty: Ty, written: bool) -> Result<Any> {
        if let Operand::Name(name) = operand
            && let Some(Meaning::Register(declared, reg)) = self.meaning(name)
            && declared.bytes() > ty.bytes()
            && declared != Ty::Pred
            && ty.is_integer()
            && declared.is_integer()
        {
            return Ok(any(declared, reg));
        }
        if written {
            self.result(s, operand, ty)
        } else {
            self.source(s, operand, ty)
        }
    }

    fn setp(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        let Some(ty) = m.ty() else {
            return self.error(s, "a type is missing");
        };
        let ftz = m.take("ftz");
        let is_set = s.opcode[0] == "set";
        let result = if is_set { m.ty() } else { None };
        // With `set.CMP.dtype.stype` the result's type stands first, which is next to last here: taken above.
        const RELATIONS: [&str; 18] = [
            "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu",
            "gtu", "geu", "num", "nan",
        ];
        let Some(relation) = m.find(|w| RELATIONS.iter().find(|r| **r == w).copied()) else {
            return self.error(s, "a comparison is missing");
        };
        let Some(compare) = compare(relation, ty, ftz) else {
            return self.error(
                s,
                format!("no comparison .{relation} of .{ty:?}").to_lowercase(),
            );
        };
        if is_set {
            self.count(s, 3..=3)?;
            let one = match result {
                Some(Ty::U32 | Ty::S32) => u32::MAX,
                Some(Ty::F32) => 1f32.to_bits(),
                _ => return self.error(s, "the result must be .u32, .s32 or .f32"),
            };
            let (Any::W(a) | Any::D(a)) = self.source(s, &s.operands[1], ty)?;
            let (Any::W(b) | Any::D(b)) = self.source(s, &s.operands[2], ty)?;
            return Ok(Op::Set {
                compare,
                d: self.result_w(s, &s.operands[0], result.expect("matched above"))?,
                a,
                b,
                one,
            });
        }
        let combine = m.find(logic);
        self.count(
            s,
            3 + usize::from(combine.is_some())..=3 + usize::from(combine.is_some()),
        )?;
        let (d, q) = match &s.operands[0] {
            Operand::Pair(p, q) => match (&**p, &**q) {
                (Operand::Name(p), Operand::Name(q)) => {
                    (self.predicate(s, p)?, Some(self.predicate(s, q)?))
                }
                _ => return self.error(s, "two predicates are expected"),
            },
            Operand::Name(p) => (self.predicate(s, p)?, None),
            _ => return self.error(s, "the result must be a predicate"),
        };
        let (Any::W(a) | Any::D(a)) = self.source(s, &s.operands[1], ty)?;
        let (Any::W(b) | Any::D(b)) = self.source(s, &s.operands[2], ty)?;
        let combine = match combine {
            Some(op) => Some((op, self.predicate_operand(s, 3)?)),
            None => None,
        };
        Ok(Op::SetP {
            compare,
            d,
            q,
            a,
            b,
            combine,
        })
    }

    // ---- Memory ----

    fn space(m: &mut Modifiers<'_>) -> Option<Space> {
        m.one_of(&[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("local", Space::Local),
            ("const", Space::Const),
            ("param", Space::Param),
        ])
    }

    /// `.weak`, `.volatile`, `.relaxed.scope`, `.acquire.scope` and the like.
    fn order(m: &mut Modifiers<'_>) -> Order {
        let scope = m.one_of(&[("cta", false), ("gpu", true), ("sys", true)]);
        let mut order = Order {
            wide: scope.unwrap_or(true),
            ..Order::default()
        };
        if m.take("volatile") || m.take("relaxed") {
            order.strong = true;
        } else if m.take("acquire") {
            (order.strong, order.acquire) = (true, true);
        } else if m.take("release") {
            (order.strong, order.release) = (true, true);
        } else if m.take("acq_rel") || m.take("sc") {
            (order.strong, order.acquire, order.release) = (true, true, true);
        } else {
            m.take("weak");
        }
        order
    }

    fn access(&mut self, s: &Statement, m: &mut Modifiers<'_>, load: bool) -> Result<Access> {
        let Some(ty) = m.ty() else {
            return self.error(s, "a type is missing");
        };
        let Some(space) = Self::space(m) else {
            return self.error(
                s,
                "generic addresses are not understood; name the state space",
            );
        };
        let order = Self::order(m);
        let read_only = load && m.take("nc");
        for hint in [
            "ca",
            "cg",
            "cs",
            "lu",
            "cv",
            "wb",
            "wt",
            "L1::no_allocate",
            "L1::evict_first",
            "L1::evict_last",
            "L1::evict_normal",
            "L2::64B",
            "L2::128B",
            "L2::256B",
        ] {
            m.take(hint);
        }
        let count = m.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1usize);
        if matches!(ty, Ty::Pred) || count * ty.bytes() as usize > 16 {
            return self.error(s, "an access of more than 16 bytes, or of predicates");
        }
        self.count(s, 2..=2)?;
        let (data, address) = if load {
            (&s.operands[0], &s.operands[1])
        } else {
            (&s.operands[1], &s.operands[0])
        };
        let address = self.address(s, address, space)?;
        let mut regs = [Any::W(SINK); 4];
        match data {
            Operand::Vector(parts) if parts.len() == count && count > 1 => {
                for (reg, part) in regs.iter_mut().zip(parts) {
                    *reg = self.wider(s, part, ty, load)?;
                }
            }
            Operand::Vector(parts) => {
                return self.error(s, format!("{} registers for {count} elements", parts.len()));
            }
            one if count == 1 => regs[0] = self.wider(s, one, ty, load)?,
            _ => return self.error(s, "a vector of registers is expected"),
        }
        Ok(Access {
            space,
            bytes: ty.bytes() as u8,
            signed: load
                && match data {
                    Operand::Vector(parts) => parts.iter().any(|part| self.extends(part, ty)),
                    one => self.extends(one, ty),
                },
            count: count as u8,
            regs,
            address,
            order,
            read_only,
        })
    }

    fn load(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        self.access(s, m, true).map(Op::Load)
    }

    fn store(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        let access = self.access(s, m, false)?;
        if matches!(access.space, Space::Const | Space::Param) {
            return self.error(s, "this space cannot be written");
        }
        Ok(Op::Store(access))
    }

    fn fence(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        self.count(s, 0..=0)?;
        let all = Order {
            acquire: true,
            release: true,
            strong: true,
            wide: true,
        };
        if s.opcode[0] == "membar" {
            return match m.one_of(&[("cta", false), ("gl", true), ("sys", true)]) {
                Some(wide) => Ok(Op::Fence(Order { wide, ..all })),
                None => self.error(s, "membar.cta, .gl or .sys"),
            };
        }
        // fence without semantics is fence.acq_rel.
        let _ = m.take("acq_rel") || m.take("sc");
        match m.one_of(&[("cta", false), ("gpu", true), ("sys", true)]) {
            Some(wide) => Ok(Op::Fence(Order { wide, ..all })),
            None => self.error(s, "a scope is missing"),
        }
    }

    fn atomic(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        let Some(ty) = m.ty() else {
            return self.error(s, "a type is missing");
        };
        let space = match Self::space(m) {
            Some(space @ (Space::Global | Space::Shared)) => space,
            _ => return self.error(s, "atomics are understood in .global and .shared"),
        };
        let order = Order {
            strong: true,
            ..Self::order(m)
        };
        use AtomOp::*;
        let Some(op) = m.one_of(&[
            ("add", Add),
            ("min", Min),
            ("max", Max),
            ("and", And),
            ("or", Or),
            ("xor", Xor),
            ("exch", Exch),
            ("cas", Cas),
            ("inc", Inc),
            ("dec", Dec),
        ]) else {
            return self.error(s, "unknown atomic operation");
        };
        let exists = match op {
            Add => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::F32 | Ty::F64),
            Min | Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
            And | Or | Xor | Exch | Cas => matches!(ty, Ty::B32 | Ty::B64),
            Inc | Dec => ty == Ty::U32,
        };
        if !exists {
            return self.error(s, format!("no such operation on .{ty:?}").to_lowercase());
        }
        let (result, rest) = if s.opcode[0] == "atom" {
            let d = self.operand(s, 0)?;
            (Some(self.result(s, d, ty)?), 1)
        } else {
            (None, 0)
        };
        let n = rest + 2 + usize::from(op == Cas);
        self.count(s, n..=n)?;
        if result.is_none() && matches!(op, Exch | Cas) {
            return self.error(s, "red has no such operation");
        }
        Ok(Op::Atomic(Atom {
            space,
            op,
            ty,
            result,
            address: self.address(s, &s.operands[rest], space)?,
            a: self.source(s, &s.operands[rest + 1], ty)?,
            b: if op == Cas {
                Some(self.source(s, &s.operands[rest + 2], ty)?)
            } else {
                None
            },
            order,
        }))
    }

    fn copy(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        if !m.take("async") {
            return self.error(s, format!("unknown instruction {}", s.opcode.join(".")));
        }
        if m.take("commit_group") {
            self.count(s, 0..=0)?;
            return Ok(Op::CopyCommit);
        }
        if m.take("wait_all") {
            self.count(s, 0..=0)?;
            return Ok(Op::CopyWait(None));
        }
        if m.take("wait_group") {
            self.count(s, 1..=1)?;
            return match s.operands[0] {
                Operand::Int(n) if n < 1 << 16 => Ok(Op::CopyWait(Some(n as u32))),
                _ => self.error(s, "a number of groups is expected"),
            };
        }
        let around_l1 = match m.one_of(&[("ca", false), ("cg", true)]) {
            Some(cg) => cg,
            None => return self.error(s, format!("unknown instruction {}", s.opcode.join("."))),
        };
        m.take("shared::cta");
        if !(m.take("shared") || s.opcode.iter().any(|w| w == "shared::cta")) || !m.take("global") {
            return self.error(s, "cp.async copies from .global to .shared");
        }
        for hint in ["L2::64B", "L2::128B", "L2::256B"] {
            m.take(hint);
        }
        self.count(s, 3..=4)?;
        let bytes = match s.operands[2] {
            Operand::Int(16) => 16,
            Operand::Int(n @ (4 | 8)) if !around_l1 => n as u8,
            _ => return self.error(s, "a copy of 4, 8 or 16 bytes (.cg: 16)"),
        };
        let source_bytes = match s.operands.get(3) {
            None => None,
            Some(operand) => Some(self.source_w(s, operand, Ty::B32)?),
        };
        Ok(Op::CopyAsync {
            to: self.address(s, &s.operands[0], Space::Shared)?,
            from: self.address(s, &s.operands[1], Space::Global)?,
            bytes,
            source_bytes,
        })
    }

    // ---- Collectives ----

    fn barrier(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        m.take("cta");
        if m.take("warp") {
            if !m.take("sync") {
                return self.error(s, "bar.warp.sync is expected");
            }
            self.count(s, 1..=1)?;
            return Ok(Op::Collective(Collective::WarpBarrier {
                members: self.source_w(s, &s.operands[0], Ty::B32)?,
            }));
        }
        let arrive = match m.one_of(&[("sync", false), ("arrive", true)]) {
            Some(arrive) => arrive,
            None => return self.error(s, format!("unknown instruction {}", s.opcode.join("."))),
        };
        m.take("aligned");
        self.count(s, 1 + usize::from(arrive)..=2)?;
        let id = self.source_w(s, &s.operands[0], Ty::U32)?;
        let threads = match s.operands.get(1) {
            None => None,
            Some(operand) => Some(self.source_w(s, operand, Ty::U32)?),
        };
        Ok(Op::Collective(Collective::Barrier {
            id,
            threads,
            arrive,
        }))
    }

    fn sync(&self, s: &Statement, m: &mut Modifiers<'_>) -> Result<()> {
        if m.take("sync") {
            Ok(())
        } else {
            self.error(s, "the .sync form is expected")
        }
    }

    fn shfl(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        self.sync(s, m)?;
        let Some(mode) = m.one_of(&[
            ("up", ShflMode::Up),
            ("down", ShflMode::Down),
            ("bfly", ShflMode::Bfly),
            ("idx", ShflMode::Idx),
        ]) else {
            return self.error(s, "unknown shuffle");
        };
        if m.ty() != Some(Ty::B32) {
            return self.error(s, "shfl has type .b32");
        }
        self.count(s, 5..=5)?;
        let (result, inside) = match &s.operands[0] {
            Operand::Pair(d, p) => match &**p {
                Operand::Name(p) => (&**d, Some(self.predicate(s, p)?)),
                _ => return self.error(s, "a predicate is expected after `|`"),
            },
            d => (d, None),
        };
        Ok(Op::Collective(Collective::Shfl {
            mode,
            result: self.result_w(s, result, Ty::B32)?,
            inside,
            value: self.source_w(s, &s.operands[1], Ty::B32)?,
            select: self.source_w(s, &s.operands[2], Ty::B32)?,
            clamp: self.source_w(s, &s.operands[3], Ty::B32)?,
            members: self.source_w(s, &s.operands[4], Ty::B32)?,
        }))
    }

    fn vote(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        self.sync(s, m)?;
        let Some(mode) = m.one_of(&[
            ("all", VoteMode::All),
            ("any", VoteMode::Any),
            ("uni", VoteMode::Uni),
            ("ballot", VoteMode::Ballot),
        ]) else {
            return self.error(s, "unknown vote");
        };
        let ty = m.ty();
        self.count(s, 3..=3)?;
        let result = match (mode, ty) {
            (VoteMode::Ballot, Some(Ty::B32)) => self.result_w(s, &s.operands[0], Ty::B32)?,
            (VoteMode::Ballot, _) => return self.error(s, "vote.ballot has type .b32"),
            (_, Some(Ty::Pred)) => self.predicate_operand(s, 0)?.reg,
            _ => return self.error(s, "this vote has type .pred"),
        };
        Ok(Op::Collective(Collective::Vote {
            mode,
            result,
            input: self.predicate_operand(s, 1)?,
            members: self.source_w(s, &s.operands[2], Ty::B32)?,
        }))
    }

    fn match_(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        let Some(all) = m.one_of(&[("any", false), ("all", true)]) else {
            return self.error(s, "match.any or match.all");
        };
        self.sync(s, m)?;
        let Some(ty @ (Ty::B32 | Ty::B64)) = m.ty() else {
            return self.error(s, "match has type .b32 or .b64");
        };
        self.count(s, 3..=3)?;
        let (result, pred) = match &s.operands[0] {
            Operand::Pair(d, p) if all => match &**p {
                Operand::Name(p) => (&**d, Some(self.predicate(s, p)?)),
                _ => return self.error(s, "a predicate is expected after `|`"),
            },
            d => (d, None),
        };
        Ok(Op::Collective(Collective::Match {
            all,
            result: self.result_w(s, result, Ty::B32)?,
            pred,
            value: self.source(s, &s.operands[1], ty)?,
            members: self.source_w(s, &s.operands[2], Ty::B32)?,
        }))
    }

    fn redux(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        self.sync(s, m)?;
        use AtomOp::*;
        let Some(op) = m.one_of(&[
            ("add", Add),
            ("min", Min),
            ("max", Max),
            ("and", And),
            ("or", Or),
            ("xor", Xor),
        ]) else {
            return self.error(s, "unknown reduction");
        };
        let signed = match (m.ty(), op) {
            (Some(Ty::U32), Add | Min | Max) | (Some(Ty::B32), And | Or | Xor) => false,
            (Some(Ty::S32), Add | Min | Max) => true,
            _ => return self.error(s, "no such reduction of this type"),
        };
        self.count(s, 3..=3)?;
        Ok(Op::Collective(Collective::Redux {
            op,
            signed,
            result: self.result_w(s, &s.operands[0], Ty::B32)?,
            value: self.source_w(s, &s.operands[1], Ty::B32)?,
            members: self.source_w(s, &s.operands[2], Ty::B32)?,
        }))
    }

    fn regs<const N: usize>(
        &mut self,
        s: &Statement,
        i: usize,
        count: usize,
        ty: Ty,
        written: bool,
    ) -> Result<[Reg; N]> {
        let mut regs = [SINK; N];
        let parts = match self.operand(s, i)? {
            Operand::Vector(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        if parts.len() != count {
            return self.error(
                s,
                format!(
                    "{} registers in operand {} where {count} belong",
                    parts.len(),
                    i + 1
                ),
            );
        }
        for (reg, part) in regs.iter_mut().zip(parts) {
            *reg = if written {
                self.result_w(s, part, ty)?
            } else {
                self.source_w(s, part, ty)?
            };
        }
        Ok(regs)
    }

    fn matrix(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        self.sync(s, m)?;
        let load = s.opcode[0] == "ldmatrix";
        let aligned = m.take("aligned");
        let shape = m.take("m8n8");
        let count = m.one_of(&[("x1", 1u8), ("x2", 2), ("x4", 4)]);
        let transposed = m.take("trans");
        m.take("shared::cta");
        let shared = m.take("shared") || s.opcode.iter().any(|w| w == "shared::cta");
        let (true, true, Some(count), true, Some(Ty::B16)) =
            (aligned, shape, count, shared, m.ty())
        else {
            return self.error(
                s,
                "only .sync.aligned.m8n8.x1|x2|x4(.trans).shared.b16 is understood",
            );
        };
        self.count(s, 2..=2)?;
        let (data, address) = if load { (0, 1) } else { (1, 0) };
        let address = self.address(s, &s.operands[address], Space::Shared)?;
        let regs = self.regs(s, data, count.into(), Ty::B32, load)?;
        Ok(Op::Collective(if load {
            Collective::LdMatrix {
                count,
                transposed,
                regs,
                address,
            }
        } else {
            Collective::StMatrix {
                count,
                transposed,
                regs,
                address,
            }
        }))
    }

    fn mma(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<Op> {
        self.sync(s, m)?;
        let aligned = m.take("aligned");
        let k = m.one_of(&[("m16n8k16", 16u8), ("m16n8k8", 8)]);
        let order = m.take("row") && m.take("col");
        let types = [m.ty(), m.ty(), m.ty(), m.ty()];
        let (true, Some(k), true, [Some(c), Some(Ty::F16), Some(Ty::F16), Some(d)]) =
            (aligned, k, order, types)
        else {
            return self.error(
                s,
                "only mma.sync.aligned.m16n8k16|m16n8k8.row.col of f16 operands is understood",
            );
        };
        let accumulator = |ty| match ty {
            Ty::F32 => Some((true, 4)),
            Ty::F16 => Some((false, 2)),
            _ => None,
        };
        let (Some((wide_d, n_d)), Some((wide_c, n_c))) = (accumulator(d), accumulator(c)) else {
            return self.error(s, "accumulators are .f32 or .f16");
        };
        if k == 8 && wide_c != wide_d {
            return self.error(s, "m16n8k8 has accumulators of one type");
        }
        self.count(s, 4..=4)?;
        let halves = usize::from(k) / 8;
        let ty = |wide| if wide { Ty::F32 } else { Ty::B32 };
        let mut a = [SINK; 4];
        let mut b = [SINK; 2];
        let a_regs: [Reg; 4] = self.regs(s, 1, 2 * halves, Ty::B32, false)?;
        a[..2 * halves].copy_from_slice(&a_regs[..2 * halves]);
        let b_regs: [Reg; 2] = self.regs(s, 2, halves, Ty::B32, false)?;
        b[..halves].copy_from_slice(&b_regs[..halves]);
        Ok(Op::Collective(Collective::Mma {
            k,
            wide_c,
            wide_d,
            d: self.regs(s, 0, n_d, ty(wide_d), true)?,
            a,
            b,
            c: self.regs(s, 3, n_c, ty(wide_c), false)?,
        }))
    }
}

fn any(declared: Ty, reg: Reg) -> Any {
    if declared.is_wide() {
        Any::D(reg)
    } else {
        Any::W(reg)
    }
}

fn logic(word: &str) -> Option<Logic> {
    match word {
        "and" => Some(Logic::And),
        "or" => Some(Logic::Or),
        "xor" => Some(Logic::Xor),
        _ => None,
    }
}

fn special(name: &str) -> Option<Special> {
    let axis = |rest: &str| match rest {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((stem, rest)) = name.split_once('.') {
        let axis = axis(rest)?;
        return match stem {
            "%tid" => Some(Special::Tid(axis)),
            "%ntid" => Some(Special::NTid(axis)),
            "%ctaid" => Some(Special::CtaId(axis)),
            "%nctaid" => Some(Special::NCtaId(axis)),
            _ => None,
        };
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}
