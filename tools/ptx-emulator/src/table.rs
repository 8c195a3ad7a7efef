//! What every scalar instruction does, lane by lane: tables to be read beside the instruction set of the PTX ISA.
//!
//! A row of the table is a function over the 32 lanes of a warp: it computes all lanes and keeps those of the mask
//! (whole warps in lock step: the compiler vectorises it), or computes one lane only (threads one by one).

use std::cell::Cell;

use crate::scalar::*;

/// A 32-bit register (or a 16-bit one, upper half zero) of all lanes of a warp.
pub(crate) type Row32 = [Cell<u32>; 32];
/// A 64-bit register of all lanes of a warp.
pub(crate) type Row64 = [Cell<u64>; 32];

/// Fundamental types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    F16,
    B32,
    U32,
    S32,
    F32,
    F16x2,
    B64,
    U64,
    S64,
    F64,
    Pred,
}

impl Ty {
    pub fn parse(word: &str) -> Option<Ty> {
        Some(match word {
            "b8" => Ty::B8,
            "u8" => Ty::U8,
            "s8" => Ty::S8,
            "b16" => Ty::B16,
            "u16" => Ty::U16,
            "s16" => Ty::S16,
            "f16" => Ty::F16,
            "b32" => Ty::B32,
            "u32" => Ty::U32,
            "s32" => Ty::S32,
            "f32" => Ty::F32,
            "f16x2" => Ty::F16x2,
            "b64" => Ty::B64,
            "u64" => Ty::U64,
            "s64" => Ty::S64,
            "f64" => Ty::F64,
            "pred" => Ty::Pred,
            _ => return None,
        })
    }

    /// Bytes; a predicate has none.
    pub fn bytes(self) -> u32 {
        match self {
            Ty::B8 | Ty::U8 | Ty::S8 => 1,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 => 2,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::F16x2 => 4,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 8,
            Ty::Pred => 0,
        }
    }

    pub fn is_wide(self) -> bool {
        self.bytes() == 8
    }

    pub fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F32 | Ty::F16x2 | Ty::F64)
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn is_untyped(self) -> bool {
        matches!(self, Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64)
    }

    pub fn is_integer(self) -> bool {
        !self.is_float() && self != Ty::Pred
    }
}

/// A function over the lanes; W stands for [`Row32`], D for [`Row64`], the result last.
#[derive(Clone, Copy)]
pub(crate) enum Fun {
    WtoW(fn(u32, &Row32, &Row32)),
    WWtoW(fn(u32, &Row32, &Row32, &Row32)),
    WWWtoW(fn(u32, &Row32, &Row32, &Row32, &Row32)),
    WWWWtoW(fn(u32, &Row32, [&Row32; 4])),
    DtoD(fn(u32, &Row64, &Row64)),
    DDtoD(fn(u32, &Row64, &Row64, &Row64)),
    DDDtoD(fn(u32, &Row64, &Row64, &Row64, &Row64)),
    DWtoD(fn(u32, &Row64, &Row64, &Row32)),
    DWWtoD(fn(u32, &Row64, &Row64, &Row32, &Row32)),
    DDWWtoD(fn(u32, &Row64, [&Row64; 2], [&Row32; 2])),
    WtoD(fn(u32, &Row64, &Row32)),
    DtoW(fn(u32, &Row32, &Row64)),
    WWtoD(fn(u32, &Row64, &Row32, &Row32)),
    WWDtoD(fn(u32, &Row64, &Row32, &Row32, &Row64)),
}

/// A comparison over the lanes; the mask of those for which it holds.
#[derive(Clone, Copy)]
pub(crate) enum Compare {
    W(fn(u32, &Row32, &Row32) -> u32),
    D(fn(u32, &Row64, &Row64) -> u32),
}

/// A row of the table.
pub(crate) struct Scalar {
    pub fun: Fun,
    pub result: Ty,
    pub operands: Vec<Ty>,
}

/// Sets the lanes of `mask` to `f(lane)`. `f` must be defined, if meaningless, for all lanes.
#[inline(always)]
pub(crate) fn each<T: Copy + Default>(mask: u32, out: &[Cell<T>; 32], f: impl Fn(usize) -> T) {
    if mask & mask.wrapping_sub(1) == 0 {
        if mask != 0 {
            let lane = mask.trailing_zeros() as usize;
            out[lane].set(f(lane));
        }
        return;
    }
    let mut all = [T::default(); 32];
    for (lane, v) in all.iter_mut().enumerate() {
        *v = f(lane);
    }
    if mask == u32::MAX {
        for lane in 0..32 {
            out[lane].set(all[lane]);
        }
    } else {
        for lane in 0..32 {
            if mask >> lane & 1 == 1 {
                out[lane].set(all[lane]);
            }
        }
    }
}

#[inline(always)]
fn holds(mask: u32, f: impl Fn(usize) -> bool) -> u32 {
    if mask & mask.wrapping_sub(1) == 0 {
        let lane = mask.trailing_zeros() as usize & 31;
        return u32::from(f(lane)) << lane & mask;
    }
    let mut all = 0;
    for lane in 0..32 {
        all |= u32::from(f(lane)) << lane;
    }
    all & mask
}

/// `lanes!(WWtoW, |a, b| expression)`: a row from the expression for one lane.
macro_rules! lanes {
    (WtoW, |$a:ident| $e:expr) => {
        Fun::WtoW(|m, d, x| {
            each(m, d, |l| {
                let $a = x[l].get();
                $e
            })
        })
    };
    (WWtoW, |$a:ident, $b:ident| $e:expr) => {
        Fun::WWtoW(|m, d, x, y| {
            each(m, d, |l| {
                let ($a, $b) = (x[l].get(), y[l].get());
                $e
            })
        })
    };
    (WWWtoW, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        Fun::WWWtoW(|m, d, x, y, z| {
            each(m, d, |l| {
                let ($a, $b, $c) = (x[l].get(), y[l].get(), z[l].get());
                $e
            })
        })
    };
    (WWWWtoW, |$a:ident, $b:ident, $c:ident, $k:ident| $e:expr) => {
        Fun::WWWWtoW(|m, d, [x, y, z, w]| {
            each(m, d, |l| {
                let ($a, $b, $c, $k) = (x[l].get(), y[l].get(), z[l].get(), w[l].get());
                $e
            })
        })
    };
    (DtoD, |$a:ident| $e:expr) => {
        Fun::DtoD(|m, d, x| {
            each(m, d, |l| {
                let $a = x[l].get();
                $e
            })
        })
    };
    (DDtoD, |$a:ident, $b:ident| $e:expr) => {
        Fun::DDtoD(|m, d, x, y| {
            each(m, d, |l| {
                let ($a, $b) = (x[l].get(), y[l].get());
                $e
            })
        })
    };
    (DDDtoD, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        Fun::DDDtoD(|m, d, x, y, z| {
            each(m, d, |l| {
                let ($a, $b, $c) = (x[l].get(), y[l].get(), z[l].get());
                $e
            })
        })
    };
    (DWtoD, |$a:ident, $b:ident| $e:expr) => {
        Fun::DWtoD(|m, d, x, y| {
            each(m, d, |l| {
                let ($a, $b) = (x[l].get(), y[l].get());
                $e
            })
        })
    };
    (DWWtoD, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        Fun::DWWtoD(|m, d, x, y, z| {
            each(m, d, |l| {
                let ($a, $b, $c) = (x[l].get(), y[l].get(), z[l].get());
                $e
            })
        })
    };
    (WtoD, |$a:ident| $e:expr) => {
        Fun::WtoD(|m, d, x| {
            each(m, d, |l| {
                let $a = x[l].get();
                $e
            })
        })
    };
    (DtoW, |$a:ident| $e:expr) => {
        Fun::DtoW(|m, d, x| {
            each(m, d, |l| {
                let $a = x[l].get();
                $e
            })
        })
    };
    (WWtoD, |$a:ident, $b:ident| $e:expr) => {
        Fun::WWtoD(|m, d, x, y| {
            each(m, d, |l| {
                let ($a, $b) = (x[l].get(), y[l].get());
                $e
            })
        })
    };
    (WWDtoD, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        Fun::WWDtoD(|m, d, x, y, z| {
            each(m, d, |l| {
                let ($a, $b, $c) = (x[l].get(), y[l].get(), z[l].get());
                $e
            })
        })
    };
}

/// The same for f32 operands and result.
macro_rules! floats {
    (|$a:ident| $e:expr) => {
        lanes!(WtoW, |a| {
            let $a = f32::from_bits(a);
            bits($e)
        })
    };
    (|$a:ident, $b:ident| $e:expr) => {
        lanes!(WWtoW, |a, b| {
            let ($a, $b) = (f32::from_bits(a), f32::from_bits(b));
            bits($e)
        })
    };
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        lanes!(WWWtoW, |a, b, c| {
            let ($a, $b, $c) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
            bits($e)
        })
    };
}

/// Evaluates the expression with the rounding mode as a constant.
macro_rules! rounded {
    ($round:expr, $R:ident => $e:expr) => {
        match $round {
            Round::Nearest => {
                const $R: Round = Round::Nearest;
                $e
            }
            Round::Zero => {
                const $R: Round = Round::Zero;
                $e
            }
            Round::Down => {
                const $R: Round = Round::Down;
                $e
            }
            Round::Up => {
                const $R: Round = Round::Up;
                $e
            }
        }
    };
}

/// Evaluates the expression with `.ftz` and `.sat` as constants, in a `finish` and a `start` for results and operands.
macro_rules! modified {
    ($ftz:expr, $sat:expr, ($start:ident, $finish:ident) => $e:expr) => {
        match ($ftz, $sat) {
            (false, false) => {
                #[inline(always)]
                fn $start(v: f32) -> f32 {
                    v
                }
                #[inline(always)]
                fn $finish(v: f32) -> f32 {
                    v
                }
                $e
            }
            (true, false) => {
                #[inline(always)]
                fn $start(v: f32) -> f32 {
                    flush(v)
                }
                #[inline(always)]
                fn $finish(v: f32) -> f32 {
                    flush(v)
                }
                $e
            }
            (false, true) => {
                #[inline(always)]
                fn $start(v: f32) -> f32 {
                    v
                }
                #[inline(always)]
                fn $finish(v: f32) -> f32 {
                    saturate(v)
                }
                $e
            }
            (true, true) => {
                #[inline(always)]
                fn $start(v: f32) -> f32 {
                    flush(v)
                }
                #[inline(always)]
                fn $finish(v: f32) -> f32 {
                    saturate(flush(v))
                }
                $e
            }
        }
    };
}

/// Modifiers of an opcode; whatever nobody takes is an error.
pub(crate) struct Modifiers<'a> {
    words: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    pub fn new(opcode: &'a [String]) -> Self {
        Modifiers {
            words: opcode[1..].iter().map(String::as_str).collect(),
        }
    }

    /// Whether the modifier is there; takes it.
    pub fn take(&mut self, word: &str) -> bool {
        match self.words.iter().position(|w| *w == word) {
            Some(i) => {
                self.words.remove(i);
                true
            }
            None => false,
        }
    }

    /// The first of several that is there; takes it.
    pub fn one_of<T: Copy>(&mut self, words: &[(&str, T)]) -> Option<T> {
        words.iter().find(|(w, _)| self.take(w)).map(|(_, v)| *v)
    }

    /// The last word, if it is a type.
    pub fn ty(&mut self) -> Option<Ty> {
        let ty = Ty::parse(self.words.last()?)?;
        self.words.pop();
        Some(ty)
    }

    pub fn round(&mut self) -> Option<Round> {
        self.one_of(&[
            ("rn", Round::Nearest),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
        ])
    }

    /// Takes the next word that `keep` accepts.
    pub fn find<T>(&mut self, keep: impl Fn(&str) -> Option<T>) -> Option<T> {
        let i = self.words.iter().position(|w| keep(w).is_some())?;
        keep(self.words.remove(i))
    }

    pub fn rest(&self) -> &[&'a str] {
        &self.words
    }
}

fn row(fun: Fun, result: Ty, operands: &[Ty]) -> Option<Scalar> {
    Some(Scalar {
        fun,
        result,
        operands: operands.to_vec(),
    })
}

#[inline(always)]
fn s32(v: u32) -> i32 {
    v as i32
}
#[inline(always)]
fn s64(v: u64) -> i64 {
    v as i64
}
#[inline(always)]
fn s16(v: u32) -> i32 {
    i32::from(v as i16)
}
#[inline(always)]
fn low(v: u32) -> u32 {
    v & 0xffff
}

/// The row for an instruction, or `None` if there is no such instruction. Modifiers that belong to it are taken.
pub(crate) fn scalar(name: &str, m: &mut Modifiers<'_>) -> Option<Scalar> {
    let ty = m.ty()?;
    match name {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "abs" | "neg"
            if ty.is_float() =>
        {
            float(name, ty, m)
        }
        "add" | "sub" | "mul" | "mad" | "div" | "rem" | "min" | "max" | "abs" | "neg" | "mul24" => {
            integer(name, ty, m)
        }
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "lop3" | "bfe" | "bfi" | "brev"
        | "popc" | "clz" | "bfind" | "prmt" | "shf" => bitwise(name, ty, m),
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" => {
            function(name, ty, m)
        }
        "mov" => match ty {
            Ty::Pred => None,
            _ if ty.bytes() == 1 => None,
            _ if ty.is_wide() => row(lanes!(DtoD, |a| a), ty, &[ty]),
            _ => row(lanes!(WtoW, |a| a), ty, &[ty]),
        },
        "dp4a" => None,
        _ => None,
    }
}

fn integer(name: &str, ty: Ty, m: &mut Modifiers<'_>) -> Option<Scalar> {
    use Ty::*;
    let two = [ty, ty];
    let three = [ty, ty, ty];
    let fun = match (name, ty) {
        ("add", S32) if m.take("sat") => {
            lanes!(WWtoW, |a, b| s32(a).saturating_add(s32(b)) as u32)
        }
        ("sub", S32) if m.take("sat") => {
            lanes!(WWtoW, |a, b| s32(a).saturating_sub(s32(b)) as u32)
        }
        ("add", U32 | S32) => lanes!(WWtoW, |a, b| a.wrapping_add(b)),
        ("add", U16 | S16) => lanes!(WWtoW, |a, b| low(a.wrapping_add(b))),
        ("add", U64 | S64) => lanes!(DDtoD, |a, b| a.wrapping_add(b)),
        ("sub", U32 | S32) => lanes!(WWtoW, |a, b| a.wrapping_sub(b)),
        ("sub", U16 | S16) => lanes!(WWtoW, |a, b| low(a.wrapping_sub(b))),
        ("sub", U64 | S64) => lanes!(DDtoD, |a, b| a.wrapping_sub(b)),
        ("mul", _) => return product(ty, m),
        ("mad", _) => return product_sum(ty, m),
        ("mul24", U32) if m.take("lo") => {
            lanes!(WWtoW, |a, b| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))
        }
        // Division by zero is unspecified, but does not trap: all ones, as hardware answers.
        ("div", U32) => lanes!(WWtoW, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        ("div", S32) => lanes!(WWtoW, |a, b| if b == 0 {
            u32::MAX
        } else {
            s32(a).wrapping_div(s32(b)) as u32
        }),
        ("div", U16) => lanes!(WWtoW, |a, b| a.checked_div(b).unwrap_or(0xffff)),
        ("div", S16) => lanes!(WWtoW, |a, b| low(if b == 0 {
            0xffff
        } else {
            s16(a).wrapping_div(s16(b)) as u32
        })),
        ("div", U64) => lanes!(DDtoD, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        ("div", S64) => lanes!(DDtoD, |a, b| if b == 0 {
            u64::MAX
        } else {
            s64(a).wrapping_div(s64(b)) as u64
        }),
        ("rem", U32) => lanes!(WWtoW, |a, b| a.checked_rem(b).unwrap_or(a)),
        ("rem", S32) => lanes!(WWtoW, |a, b| if b == 0 {
            a
        } else {
            s32(a).wrapping_rem(s32(b)) as u32
        }),
        ("rem", U16) => lanes!(WWtoW, |a, b| a.checked_rem(b).unwrap_or(a)),
        ("rem", S16) => lanes!(WWtoW, |a, b| low(if b == 0 {
            a
        } else {
            s16(a).wrapping_rem(s16(b)) as u32
        })),
        ("rem", U64) => lanes!(DDtoD, |a, b| a.checked_rem(b).unwrap_or(a)),
        ("rem", S64) => lanes!(DDtoD, |a, b| if b == 0 {
            a
        } else {
            s64(a).wrapping_rem(s64(b)) as u64
        }),
        ("min", U32 | U16) => lanes!(WWtoW, |a, b| a.min(b)),
        ("min", S32) => lanes!(WWtoW, |a, b| s32(a).min(s32(b)) as u32),
        ("min", S16) => lanes!(WWtoW, |a, b| low(s16(a).min(s16(b)) as u32)),
        ("min", U64) => lanes!(DDtoD, |a, b| a.min(b)),
        ("min", S64) => lanes!(DDtoD, |a, b| s64(a).min(s64(b)) as u64),
        ("max", U32 | U16) => lanes!(WWtoW, |a, b| a.max(b)),
        ("max", S32) => lanes!(WWtoW, |a, b| s32(a).max(s32(b)) as u32),
        ("max", S16) => lanes!(WWtoW, |a, b| low(s16(a).max(s16(b)) as u32)),
        ("max", U64) => lanes!(DDtoD, |a, b| a.max(b)),
        ("max", S64) => lanes!(DDtoD, |a, b| s64(a).max(s64(b)) as u64),
        ("abs", S32) => return row(lanes!(WtoW, |a| s32(a).wrapping_abs() as u32), ty, &[ty]),
        ("abs", S16) => {
            return row(
                lanes!(WtoW, |a| low(s16(a).wrapping_abs() as u32)),
                ty,
                &[ty],
            );
        }
        ("abs", S64) => return row(lanes!(DtoD, |a| s64(a).wrapping_abs() as u64), ty, &[ty]),
        ("neg", S32) => return row(lanes!(WtoW, |a| a.wrapping_neg()), ty, &[ty]),
        ("neg", S16) => return row(lanes!(WtoW, |a| low(a.wrapping_neg())), ty, &[ty]),
        ("neg", S64) => return row(lanes!(DtoD, |a| a.wrapping_neg()), ty, &[ty]),
        _ => return None,
    };
    let _ = three;
    row(fun, ty, &two)
}

fn product(ty: Ty, m: &mut Modifiers<'_>) -> Option<Scalar> {
    use Ty::*;
    let two = [ty, ty];
    if m.take("wide") {
        return match ty {
            U32 => row(lanes!(WWtoD, |a, b| u64::from(a) * u64::from(b)), U64, &two),
            S32 => row(
                lanes!(WWtoD, |a, b| (i64::from(s32(a)) * i64::from(s32(b))) as u64),
                S64,
                &two,
            ),
            U16 => row(lanes!(WWtoW, |a, b| a.wrapping_mul(b)), U32, &two),
            S16 => row(
                lanes!(WWtoW, |a, b| s16(a).wrapping_mul(s16(b)) as u32),
                S32,
                &two,
            ),
            _ => None,
        };
    }
    if m.take("hi") {
        let fun = match ty {
            U32 => lanes!(WWtoW, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            S32 => lanes!(
                WWtoW,
                |a, b| ((i64::from(s32(a)) * i64::from(s32(b))) >> 32) as u32
            ),
            U16 => lanes!(WWtoW, |a, b| a.wrapping_mul(b) >> 16),
            S16 => lanes!(
                WWtoW,
                |a, b| low((s16(a).wrapping_mul(s16(b)) >> 16) as u32)
            ),
            U64 => lanes!(DDtoD, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            S64 => lanes!(
                DDtoD,
                |a, b| ((i128::from(s64(a)) * i128::from(s64(b))) >> 64) as u64
            ),
            _ => return None,
        };
        return row(fun, ty, &two);
    }
    if !m.take("lo") {
        return None;
    }
    let fun = match ty {
        U32 | S32 => lanes!(WWtoW, |a, b| a.wrapping_mul(b)),
        U16 | S16 => lanes!(WWtoW, |a, b| low(a.wrapping_mul(b))),
        U64 | S64 => lanes!(DDtoD, |a, b| a.wrapping_mul(b)),
        _ => return None,
    };
    row(fun, ty, &two)
}

fn product_sum(ty: Ty, m: &mut Modifiers<'_>) -> Option<Scalar> {
    use Ty::*;
    if m.take("wide") {
        return match ty {
            U32 => row(
                lanes!(WWDtoD, |a, b, c| (u64::from(a) * u64::from(b))
                    .wrapping_add(c)),
                U64,
                &[U32, U32, U64],
            ),
            S32 => row(
                lanes!(WWDtoD, |a, b, c| (i64::from(s32(a)) * i64::from(s32(b)))
                    .wrapping_add(s64(c))
                    as u64),
                S64,
                &[S32, S32, S64],
            ),
            U16 => row(
                lanes!(WWWtoW, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                U32,
                &[U16, U16, U32],
            ),
            S16 => row(
                lanes!(
                    WWWtoW,
                    |a, b, c| s16(a).wrapping_mul(s16(b)).wrapping_add(s32(c)) as u32
                ),
                S32,
                &[S16, S16, S32],
            ),
            _ => None,
        };
    }
    let fun = if m.take("hi") {
        match ty {
            U32 => lanes!(WWWtoW, |a, b, c| (((u64::from(a) * u64::from(b)) >> 32)
                as u32)
                .wrapping_add(c)),
            S32 => lanes!(WWWtoW, |a, b, c| {
                (((i64::from(s32(a)) * i64::from(s32(b))) >> 32) as u32).wrapping_add(c)
            }),
            _ => return None,
        }
    } else if m.take("lo") {
        match ty {
            U32 | S32 => lanes!(WWWtoW, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            U16 | S16 => lanes!(WWWtoW, |a, b, c| low(a.wrapping_mul(b).wrapping_add(c))),
            U64 | S64 => lanes!(DDDtoD, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            _ => return None,
        }
    } else {
        return None;
    };
    row(fun, ty, &[ty; 3])
}

fn bitwise(name: &str, ty: Ty, m: &mut Modifiers<'_>) -> Option<Scalar> {
    use Ty::*;
    let fun = match (name, ty) {
        ("and", B16 | B32) => lanes!(WWtoW, |a, b| a & b),
        ("and", B64) => lanes!(DDtoD, |a, b| a & b),
        ("or", B16 | B32) => lanes!(WWtoW, |a, b| a | b),
        ("or", B64) => lanes!(DDtoD, |a, b| a | b),
        ("xor", B16 | B32) => lanes!(WWtoW, |a, b| a ^ b),
        ("xor", B64) => lanes!(DDtoD, |a, b| a ^ b),
        ("not", B32) => return row(lanes!(WtoW, |a| !a), ty, &[ty]),
        ("not", B16) => return row(lanes!(WtoW, |a| low(!a)), ty, &[ty]),
        ("not", B64) => return row(lanes!(DtoD, |a| !a), ty, &[ty]),
        ("cnot", B32 | B16) => return row(lanes!(WtoW, |a| u32::from(a == 0)), ty, &[ty]),
        ("cnot", B64) => return row(lanes!(DtoD, |a| u64::from(a == 0)), ty, &[ty]),
        // Amounts beyond the width are clamped to it.
        ("shl", B32) => lanes!(WWtoW, |a, b| a.checked_shl(b).unwrap_or(0)),
        ("shl", B16) => {
            return row(
                lanes!(WWtoW, |a, b| low(a.checked_shl(b).unwrap_or(0))),
                ty,
                &[ty, U32],
            );
        }
        ("shl", B64) => {
            return row(
                lanes!(DWtoD, |a, b| a.checked_shl(b).unwrap_or(0)),
                ty,
                &[ty, U32],
            );
        }
        ("shr", B32 | U32) => {
            return row(
                lanes!(WWtoW, |a, b| a.checked_shr(b).unwrap_or(0)),
                ty,
                &[ty, U32],
            );
        }
        ("shr", B16 | U16) => {
            return row(
                lanes!(WWtoW, |a, b| a.checked_shr(b).unwrap_or(0)),
                ty,
                &[ty, U32],
            );
        }
        ("shr", S32) => {
            return row(
                lanes!(WWtoW, |a, b| (s32(a) >> b.min(31)) as u32),
                ty,
                &[ty, U32],
            );
        }
        ("shr", S16) => {
            return row(
                lanes!(WWtoW, |a, b| low((s16(a) >> b.min(31)) as u32)),
                ty,
                &[ty, U32],
            );
        }
        ("shr", B64 | U64) => {
            return row(
                lanes!(DWtoD, |a, b| a.checked_shr(b).unwrap_or(0)),
                ty,
                &[ty, U32],
            );
        }
        ("shr", S64) => {
            return row(
                lanes!(DWtoD, |a, b| (s64(a) >> b.min(63)) as u64),
                ty,
                &[ty, U32],
            );
        }
        ("lop3", B32) => {
            return row(
                lanes!(WWWWtoW, |a, b, c, k| {
                    let mut out = 0;
                    for i in 0..8u32 {
                        if k >> i & 1 == 1 {
                            out |= (if i & 4 != 0 { a } else { !a })
                                & (if i & 2 != 0 { b } else { !b })
                                & (if i & 1 != 0 { c } else { !c });
                        }
                    }
                    out
                }),
                ty,
                &[ty, ty, ty, U32],
            );
        }
        ("bfe", U32) => {
            return row(
                lanes!(WWWtoW, |a, b, c| extract(a.into(), b, c, 32, false) as u32),
                ty,
                &[ty, U32, U32],
            );
        }
        ("bfe", S32) => {
            return row(
                lanes!(WWWtoW, |a, b, c| extract(a.into(), b, c, 32, true) as u32),
                ty,
                &[ty, U32, U32],
            );
        }
        ("bfe", U64) => {
            return row(
                lanes!(DWWtoD, |a, b, c| extract(a, b, c, 64, false)),
                ty,
                &[ty, U32, U32],
            );
        }
        ("bfe", S64) => {
            return row(
                lanes!(DWWtoD, |a, b, c| extract(a, b, c, 64, true)),
                ty,
                &[ty, U32, U32],
            );
        }
        ("bfi", B32) => {
            return row(
                lanes!(WWWWtoW, |a, b, c, k| insert(a.into(), b.into(), c, k, 32)
                    as u32),
                ty,
                &[ty, ty, U32, U32],
            );
        }
        ("bfi", B64) => {
            return row(
                Fun::DDWWtoD(|m, d, [x, y], [p, n]| {
                    each(m, d, |l| {
                        insert(x[l].get(), y[l].get(), p[l].get(), n[l].get(), 64)
                    });
                }),
                ty,
                &[ty, ty, U32, U32],
            );
        }
        ("brev", B32) => return row(lanes!(WtoW, |a| a.reverse_bits()), ty, &[ty]),
        ("brev", B64) => return row(lanes!(DtoD, |a| a.reverse_bits()), ty, &[ty]),
        ("popc", B32) => return row(lanes!(WtoW, |a| a.count_ones()), U32, &[ty]),
        ("popc", B64) => return row(lanes!(DtoW, |a| a.count_ones()), U32, &[ty]),
        ("clz", B32) => return row(lanes!(WtoW, |a| a.leading_zeros()), U32, &[ty]),
        ("clz", B64) => return row(lanes!(DtoW, |a| a.leading_zeros()), U32, &[ty]),
        ("bfind", U32 | S32 | U64 | S64) => {
            let shift = m.take("shiftamt");
            let fun = match (ty, shift) {
                (U32, false) => lanes!(WtoW, |a| find(a.into(), 32, false)),
                (U32, true) => lanes!(WtoW, |a| find(a.into(), 32, true)),
                (S32, false) => lanes!(WtoW, |a| find(
                    (a ^ (s32(a) >> 31) as u32).into(),
                    32,
                    false
                )),
                (S32, true) => lanes!(WtoW, |a| find((a ^ (s32(a) >> 31) as u32).into(), 32, true)),
                (U64, false) => lanes!(DtoW, |a| find(a, 64, false)),
                (U64, true) => lanes!(DtoW, |a| find(a, 64, true)),
                (_, false) => lanes!(DtoW, |a| find(a ^ (s64(a) >> 63) as u64, 64, false)),
                (_, true) => lanes!(DtoW, |a| find(a ^ (s64(a) >> 63) as u64, 64, true)),
            };
            return row(fun, U32, &[ty]);
        }
        ("prmt", B32) => {
            let fun = lanes!(WWWtoW, |a, b, c| {
                let bytes = u64::from(b) << 32 | u64::from(a);
                let mut out = 0;
                for i in 0..4 {
                    let select = c >> (4 * i) & 15;
                    let byte = (bytes >> (8 * (select & 7))) as u8;
                    let byte = if select & 8 != 0 {
                        (byte as i8 >> 7) as u8
                    } else {
                        byte
                    };
                    out |= u32::from(byte) << (8 * i);
                }
                out
            });
            return row(fun, ty, &[ty; 3]);
        }
        ("shf", B32) => {
            let left = m.one_of(&[("l", true), ("r", false)])?;
            let wrap = m.one_of(&[("wrap", true), ("clamp", false)])?;
            // The pair b:a is shifted; the upper (left) or lower (right) half is the result.
            let fun = match (left, wrap) {
                (true, true) => lanes!(WWWtoW, |a, b, c| ((pair(a, b) << (c & 31)) >> 32) as u32),
                (true, false) => lanes!(WWWtoW, |a, b, c| (u128::from(pair(a, b)) << c.min(32)
                    >> 32) as u32),
                (false, true) => lanes!(WWWtoW, |a, b, c| (pair(a, b) >> (c & 31)) as u32),
                (false, false) => lanes!(WWWtoW, |a, b, c| (pair(a, b) >> c.min(32)) as u32),
            };
            return row(fun, ty, &[ty, ty, U32]);
        }
        _ => return None,
    };
    let operands = if name == "shl" { [ty, U32] } else { [ty, ty] };
    row(fun, ty, &operands)
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// `bfe`: `len` bits from `pos`; beyond the top, zeros or the sign.
fn extract(a: u64, pos: u32, len: u32, width: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let a = if signed && width == 32 {
        i64::from(a as i32) as u64
    } else {
        a
    };
    let sign = if !signed || len == 0 {
        0
    } else {
        a >> (pos + len - 1).min(width - 1) & 1
    };
    let field = if len == 0 {
        0
    } else {
        let shifted = if pos >= width {
            0
        } else {
            (a & mask(width)) >> pos
        };
        shifted & mask(len.min(width))
    };
    let available = len.min(width.saturating_sub(pos));
    if sign == 1 {
        field | !mask(available)
    } else {
        field
    }
}

/// `bfi`: the low `len` bits of `a` into `b` at `pos`.
fn insert(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= width {
        return b;
    }
    let field = mask(len) << pos & mask(width);
    b & !field | a << pos & field
}

fn mask(bits: u32) -> u64 {
    if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    }
}

/// `bfind`: the highest set bit, or how far it is from the top; all ones if there is none.
fn find(a: u64, width: u32, shift: bool) -> u32 {
    if a == 0 {
        return u32::MAX;
    }
    let bit = 63 - a.leading_zeros();
    if shift { width - 1 - bit } else { bit }
}

fn float(name: &str, ty: Ty, m: &mut Modifiers<'_>) -> Option<Scalar> {
    use Ty::*;
    let (one, two, three) = ([ty], [ty; 2], [ty; 3]);
    match ty {
        F32 => {
            let ftz = m.take("ftz");
            if matches!(name, "abs" | "neg") {
                let fun = match (name, ftz) {
                    ("abs", false) => lanes!(WtoW, |a| a & 0x7fff_ffff),
                    ("abs", true) => {
                        lanes!(WtoW, |a| flush(f32::from_bits(a)).to_bits() & 0x7fff_ffff)
                    }
                    (_, false) => lanes!(WtoW, |a| a ^ 0x8000_0000),
                    (_, true) => lanes!(WtoW, |a| flush(f32::from_bits(a)).to_bits() ^ 0x8000_0000),
                };
                return row(fun, ty, &one);
            }
            if matches!(name, "min" | "max") {
                let nan = m.take("NaN");
                let fun = modified!(ftz, false, (start, finish) => match (name, nan) {
                    ("min", false) => floats!(|a, b| finish(min_f32(start(a), start(b)))),
                    ("max", false) => floats!(|a, b| finish(max_f32(start(a), start(b)))),
                    ("min", true) => floats!(|a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { finish(min_f32(start(a), start(b))) }),
                    _ => floats!(|a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { finish(max_f32(start(a), start(b))) }),
                });
                return row(fun, ty, &two);
            }
            if name == "div" {
                if m.take("full") || m.take("approx") {
                    return row(
                        modified!(ftz, false, (start, finish) => floats!(|a, b| finish(start(a) / start(b)))),
                        ty,
                        &two,
                    );
                }
                let round = m.round()?;
                return row(
                    modified!(ftz, false, (start, finish) => rounded!(round, R =>
                        floats!(|a, b| finish(div_f32(start(a), start(b), R))))),
                    ty,
                    &two,
                );
            }
            let round = m.round();
            let sat = m.take("sat");
            // Without a rounding modifier, add, sub and mul may be fused by a compiler, but round to nearest.
            let default = round.unwrap_or(Round::Nearest);
            match name {
                "add" => row(
                    modified!(ftz, sat, (start, finish) => rounded!(default, R =>
                        floats!(|a, b| finish(add_f32(start(a), start(b), R))))),
                    ty,
                    &two,
                ),
                "sub" => row(
                    modified!(ftz, sat, (start, finish) => rounded!(default, R =>
                        floats!(|a, b| finish(add_f32(start(a), -start(b), R))))),
                    ty,
                    &two,
                ),
                "mul" => row(
                    modified!(ftz, sat, (start, finish) => rounded!(default, R =>
                        floats!(|a, b| finish(mul_f32(start(a), start(b), R))))),
                    ty,
                    &two,
                ),
                // The ISA requires the rounding of a fused operation to be stated.
                "fma" | "mad" => {
                    let round = round?;
                    row(
                        modified!(ftz, sat, (start, finish) => rounded!(round, R =>
                            floats!(|a, b, c| finish(fma_f32(start(a), start(b), start(c), R))))),
                        ty,
                        &three,
                    )
                }
                _ => None,
            }
        }
        F64 => double(name, ty, m),
        F16 => {
            let ftz = m.take("ftz");
            let _ = m.take("rn");
            half_row(name, ftz, m, false)
        }
        F16x2 => {
            let ftz = m.take("ftz");
            let _ = m.take("rn");
            half_row(name, ftz, m, true)
        }
        _ => None,
    }
}

fn double(name: &str, ty: Ty, m: &mut Modifiers<'_>) -> Option<Scalar> {
    macro_rules! doubles {
        (|$a:ident, $b:ident| $e:expr) => {
            lanes!(DDtoD, |a, b| {
                let ($a, $b) = (f64::from_bits(a), f64::from_bits(b));
                bits64($e)
            })
        };
    }
    let (one, two) = ([ty], [ty; 2]);
    match name {
        "abs" => return row(lanes!(DtoD, |a| a & (u64::MAX >> 1)), ty, &one),
        "neg" => return row(lanes!(DtoD, |a| a ^ (1 << 63)), ty, &one),
        "min" => return row(doubles!(|a, b| min_f64(a, b)), ty, &two),
        "max" => return row(doubles!(|a, b| max_f64(a, b)), ty, &two),
        _ => {}
    }
    // f64 is there for completeness of reference computations: rounding to nearest only.
    let rounded = m.take("rn");
    match name {
        "add" => row(doubles!(|a, b| a + b), ty, &two),
        "sub" => row(doubles!(|a, b| a - b), ty, &two),
        "mul" => row(doubles!(|a, b| a * b), ty, &two),
        "div" if rounded => row(doubles!(|a, b| a / b), ty, &two),
        "fma" if rounded => row(
            lanes!(DDDtoD, |a, b, c| bits64(
                f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c))
            )),
            ty,
            &[ty; 3],
        ),
        _ => None,
    }
}

/// f16 arithmetic, one or two at a time.
fn half_row(name: &str, ftz: bool, m: &mut Modifiers<'_>, packed: bool) -> Option<Scalar> {
    let ty = if packed { Ty::F16x2 } else { Ty::F16 };
    macro_rules! half_lanes {
        (|$a:ident| $e:expr) => {
            if packed {
                lanes!(WtoW, |x| halves(x, 0, |$a, _| $e))
            } else {
                lanes!(WtoW, |x| {
                    let $a = low(x);
                    $e
                })
            }
        };
        (|$a:ident, $b:ident| $e:expr) => {
            if packed {
                lanes!(WWtoW, |x, y| halves(x, y, |$a, $b| $e))
            } else {
                lanes!(WWtoW, |x, y| {
                    let ($a, $b) = (low(x), low(y));
                    $e
                })
            }
        };
    }
    macro_rules! flushed {
        ($F:ident => $e:expr) => {
            if ftz {
                #[inline(always)]
                fn $F(v: u32) -> u32 {
                    h_flush(v)
                }
                $e
            } else {
                #[inline(always)]
                fn $F(v: u32) -> u32 {
                    v
                }
                $e
            }
        };
    }
    let (one, two) = ([ty], [ty; 2]);
    match name {
        "abs" => row(flushed!(f => half_lanes!(|a| f(a) & 0x7fff)), ty, &one),
        "neg" => row(flushed!(f => half_lanes!(|a| f(a) ^ 0x8000)), ty, &one),
        "min" | "max" => {
            let nan = m.take("NaN");
            let fun = flushed!(f => match (name, nan) {
                ("min", false) => half_lanes!(|a, b| h_min(f(a), f(b))),
                ("max", false) => half_lanes!(|a, b| h_max(f(a), f(b))),
                ("min", true) => half_lanes!(|a, b| if h(a).is_nan() || h(b).is_nan() { NAN16 } else { h_min(f(a), f(b)) }),
                _ => half_lanes!(|a, b| if h(a).is_nan() || h(b).is_nan() { NAN16 } else { h_max(f(a), f(b)) }),
            });
            row(fun, ty, &two)
        }
        "add" => row(
            flushed!(f => half_lanes!(|a, b| f(h_bits(h(f(a)) + h(f(b)))))),
            ty,
            &two,
        ),
        "sub" => row(
            flushed!(f => half_lanes!(|a, b| f(h_bits(h(f(a)) - h(f(b)))))),
            ty,
            &two,
        ),
        "mul" => row(
            flushed!(f => half_lanes!(|a, b| f(h_bits(h(f(a)) * h(f(b)))))),
            ty,
            &two,
        ),
        "fma" => {
            let fun = flushed!(f => if packed {
                lanes!(WWWtoW, |x, y, z| {
                    let lower = f(h_bits(h(f(low(x))) * h(f(low(y))) + h(f(low(z)))));
                    let upper = f(h_bits(h(f(x >> 16)) * h(f(y >> 16)) + h(f(z >> 16))));
                    lower | upper << 16
                })
            } else {
                lanes!(WWWtoW, |x, y, z| f(h_bits(h(f(low(x))) * h(f(low(y))) + h(f(low(z))))))
            });
            row(fun, ty, &[ty; 3])
        }
        _ => None,
    }
}

fn function(name: &str, ty: Ty, m: &mut Modifiers<'_>) -> Option<Scalar> {
    use Ty::*;
    let one = [ty];
    if name == "copysign" {
        return match ty {
            F32 => row(
                lanes!(WWtoW, |a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
                ty,
                &[ty; 2],
            ),
            _ => None,
        };
    }
    let ftz = m.take("ftz");
    match (name, ty) {
        ("ex2", F16) if m.take("approx") => {
            return row(lanes!(WtoW, |a| h_bits(h(low(a)).exp2())), ty, &one);
        }
        ("ex2", F16x2) if m.take("approx") => {
            return row(
                lanes!(WtoW, |a| halves(a, 0, |x, _| h_bits(h(x).exp2()))),
                ty,
                &one,
            );
        }
        ("tanh", F16) if m.take("approx") => {
            return row(lanes!(WtoW, |a| h_bits(h(low(a)).tanh())), ty, &one);
        }
        ("tanh", F16x2) if m.take("approx") => {
            return row(
                lanes!(WtoW, |a| halves(a, 0, |x, _| h_bits(h(x).tanh()))),
                ty,
                &one,
            );
        }
        (_, F32) => {}
        ("rcp", F64) if m.take("rn") => {
            return row(lanes!(DtoD, |a| bits64(1.0 / f64::from_bits(a))), ty, &one);
        }
        ("sqrt", F64) if m.take("rn") => {
            return row(lanes!(DtoD, |a| bits64(f64::from_bits(a).sqrt())), ty, &one);
        }
        _ => return None,
    }
    if matches!(name, "rcp" | "sqrt")
        && let Some(round) = m.round()
    {
        let fun = modified!(ftz, false, (start, finish) => rounded!(round, R => if name == "rcp" {
            floats!(|a| finish(div_f32(1.0, start(a), R)))
        } else {
            floats!(|a| finish(sqrt_f32(start(a), R)))
        }));
        return row(fun, ty, &one);
    }
    if !m.take("approx") {
        return None;
    }
    let fun = modified!(ftz, false, (start, finish) => match name {
        "rcp" => floats!(|a| finish(approx(start(a), |v| 1.0 / v))),
        "sqrt" => floats!(|a| finish(approx(start(a), f64::sqrt))),
        "rsqrt" => floats!(|a| finish(approx(start(a), |v| 1.0 / v.sqrt()))),
        "ex2" => floats!(|a| finish(approx(start(a), f64::exp2))),
        "lg2" => floats!(|a| finish(approx(start(a), f64::log2))),
        "sin" => floats!(|a| finish(approx(start(a), f64::sin))),
        "cos" => floats!(|a| finish(approx(start(a), f64::cos))),
        "tanh" => floats!(|a| finish(approx(start(a), f64::tanh))),
        _ => return None,
    });
    row(fun, ty, &one)
}

/// A comparison from a closure that decodes a lane's bits and an expression over two decoded values.
macro_rules! holds_if {
    ($bank:ident, $key:expr, |$a:ident, $b:ident| $e:expr) => {
        Compare::$bank(|m, x, y| {
            let key = $key;
            holds(m, |l| {
                let ($a, $b) = (key(x[l].get()), key(y[l].get()));
                $e
            })
        })
    };
}

/// The comparison of a `setp` or `set`.
pub(crate) fn compare(relation: &str, ty: Ty, ftz: bool) -> Option<Compare> {
    // `$key` decodes the bits; for floats the comparisons of Rust are the ordered ones, false if either is NaN, but
    // for `!=`.
    macro_rules! relation {
        ($bank:ident, $key:expr, $word:expr) => {
            match $word {
                "eq" => holds_if!($bank, $key, |a, b| a == b),
                "ne" => holds_if!($bank, $key, |a, b| a != b),
                "lt" => holds_if!($bank, $key, |a, b| a < b),
                "le" => holds_if!($bank, $key, |a, b| a <= b),
                "gt" => holds_if!($bank, $key, |a, b| a > b),
                "ge" => holds_if!($bank, $key, |a, b| a >= b),
                _ => return None,
            }
        };
    }
    macro_rules! float_relation {
        ($bank:ident, $key:expr, $word:expr) => {
            match $word {
                "ne" => holds_if!($bank, $key, |a, b| a != b && ordered(a, b)),
                "equ" => holds_if!($bank, $key, |a, b| a == b || !ordered(a, b)),
                "neu" => holds_if!($bank, $key, |a, b| a != b),
                "ltu" => holds_if!($bank, $key, |a, b| a < b || !ordered(a, b)),
                "leu" => holds_if!($bank, $key, |a, b| a <= b || !ordered(a, b)),
                "gtu" => holds_if!($bank, $key, |a, b| a > b || !ordered(a, b)),
                "geu" => holds_if!($bank, $key, |a, b| a >= b || !ordered(a, b)),
                "num" => holds_if!($bank, $key, |a, b| ordered(a, b)),
                "nan" => holds_if!($bank, $key, |a, b| !ordered(a, b)),
                word => relation!($bank, $key, word),
            }
        };
    }
    fn ordered<T: PartialOrd>(a: T, b: T) -> bool {
        a.partial_cmp(&b).is_some()
    }
    use Ty::*;
    if ty.is_float() {
        return Some(match ty {
            F32 if ftz => float_relation!(W, |v| flush(f32::from_bits(v)), relation),
            F32 => float_relation!(W, |v| f32::from_bits(v), relation),
            F16 => float_relation!(W, |v| h(v), relation),
            F64 => float_relation!(D, |v| f64::from_bits(v), relation),
            _ => return None,
        });
    }
    // lo, ls, hi, hs are the unsigned spellings of lt, le, gt, ge.
    let relation = match relation {
        "lo" if !ty.is_signed() => "lt",
        "ls" if !ty.is_signed() => "le",
        "hi" if !ty.is_signed() => "gt",
        "hs" if !ty.is_signed() => "ge",
        word if ty.is_untyped() && !matches!(word, "eq" | "ne") => return None,
        word => word,
    };
    Some(match ty {
        U16 | B16 | U32 | B32 => relation!(W, |v: u32| v, relation),
        S16 => relation!(W, |v| s16(v), relation),
        S32 => relation!(W, |v| s32(v), relation),
        U64 | B64 => relation!(D, |v: u64| v, relation),
        S64 => relation!(D, |v| s64(v), relation),
        _ => return None,
    })
}

/// How a conversion rounds: to an integer or to a floating-point type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    pub to: Ty,
    pub from: Ty,
    pub round: Round,
    /// Rounded to an integral value (`.rni` and the like) although the result is a float.
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
}

impl Conversion {
    /// Conversions that kernels are full of, as rows of their own.
    pub fn fast(&self) -> Option<Fun> {
        use Ty::*;
        if self.ftz || self.sat || self.integral {
            return None;
        }
        Some(match (self.to, self.from, self.round) {
            (F32, F16, _) => lanes!(WtoW, |a| bits(half::f16::from_bits(a as u16).to_f32())),
            (F16, F32, Round::Nearest) => lanes!(WtoW, |a| h_bits(f32::from_bits(a).into())),
            (U64, U32, _) => lanes!(WtoD, |a| u64::from(a)),
            (S64, S32, _) => lanes!(WtoD, |a| i64::from(s32(a)) as u64),
            (U32 | S32, U64 | S64, _) => lanes!(DtoW, |a| a as u32),
            (F32, U32, Round::Nearest) => lanes!(WtoW, |a| (a as f32).to_bits()),
            (F32, S32, Round::Nearest) => lanes!(WtoW, |a| (s32(a) as f32).to_bits()),
            _ => return None,
        })
    }

    /// Any conversion, one value at a time.
    pub fn apply(&self, bits_in: u64) -> u64 {
        use Ty::*;
        if self.from.is_integer() {
            let width = 8 * self.from.bytes();
            let value: i128 = if self.from.is_signed() {
                i128::from((bits_in as i64) << (64 - width) >> (64 - width))
            } else {
                i128::from(bits_in & mask(width))
            };
            return match self.to {
                F32 => u64::from(int_to_f32(value, self.round).to_bits()),
                F64 => (value as f64).to_bits(),
                F16 => u64::from(to_f16(value as f64, self.round)),
                _ => self.integer(value),
            };
        }
        let mut value = match self.from {
            F16 => h(bits_in as u32),
            F32 if self.ftz => flush(f32::from_bits(bits_in as u32)).into(),
            F32 => f32::from_bits(bits_in as u32).into(),
            _ => f64::from_bits(bits_in),
        };
        if self.to.is_integer() {
            if value.is_nan() {
                // The ISA: zero if neither side has 64 bits, else the top bit alone.
                let wide = self.from == F64 || self.to.is_wide();
                return if wide {
                    1 << (8 * self.to.bytes() - 1)
                } else {
                    0
                };
            }
            let whole = to_integral(value, self.round);
            let width = 8 * self.to.bytes();
            let (min, max) = if self.to.is_signed() {
                (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1)
            } else {
                (0, (1i128 << width) - 1)
            };
            return (whole as i128).clamp(min, max) as u64 & mask(width);
        }
        if self.integral {
            value = to_integral(value, self.round);
        }
        if self.sat {
            value = if value.is_nan() {
                0.0
            } else {
                value.clamp(0.0, 1.0)
            };
        }
        match self.to {
            F16 => u64::from(to_f16(value, self.round)),
            F32 => {
                let v = round_f32(value, 0.0, self.round);
                u64::from(bits(if self.ftz { flush(v) } else { v }))
            }
            _ => bits64(value),
        }
    }

    fn integer(&self, value: i128) -> u64 {
        let width = 8 * self.to.bytes();
        let value = if self.sat {
            let (min, max) = if self.to.is_signed() {
                (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1)
            } else {
                (0, (1i128 << width) - 1)
            };
            value.clamp(min, max)
        } else {
            value
        };
        value as u64 & mask(width)
    }
}
