//! Cases of `adamw`: several steps on given gradients, some clipped, one left out; broken variant: the last is not clipped.

use half::f16;
use nearmiss::device::{Buffer, Device, ElementType, Float};
use nearmiss::ops::adamw::{AdamW, Moments, State, adamw, error_bound, reference};
use nearmiss::ops::{Places, scatter_rows};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, sum as add_up, twice,
    where_bindings_end, with_small_bindings, with_type,
};

/// Steps; the norm of the third is not finite.
const STEPS: u64 = 5;
const LEFT_OUT: u64 = 3;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [0, 8, 264, 1016, 20_008] {
        for copy in [None, Some(ElementType::F16), Some(ElementType::F32)] {
            cases.push(Case {
                op: "adamw",
                name: format!("n={n},copy={}", copy.map_or("none", |copy| copy.name())),
                on: anywhere,
                run: Box::new(move |device| any(device, n, copy)),
            });
        }
    }
    for (name, n) in [
        ("larger than one binding", 40_000),
        ("more than a grid has places in one dimension", 17_000_000),
    ] {
        cases.push(Case {
            op: "adamw",
            name: name.into(),
            on: where_bindings_end,
            run: Box::new(move |device| match n {
                40_000 => {
                    with_small_bindings(device, |small| any(small, n, Some(ElementType::F16)))
                }
                _ => spread(device, n),
            }),
        });
    }
    cases
}

fn any(device: &Device, n: usize, copy: Option<ElementType>) -> Result<Outcome, String> {
    with_type!(copy.unwrap_or(ElementType::F32), W => case::<W>(device, n, copy.is_some()))
}

/// An output that holds something to begin with.
fn held(device: &Device, values: &[f32], poison: u32) -> nearmiss::Result<Output<f32>> {
    let mut output = Output::new(device, values.len(), poison)?;
    let rows: Vec<u32> = (0..values.len() as u32 / 8).collect();
    scatter_rows(
        &device.upload(values)?,
        8,
        &Places::new(device, &rows)?,
        output.target(),
    )?;
    Ok(output)
}

fn settings(step: u64) -> AdamW {
    AdamW {
        learning_rate: 1e-3 * step as f32,
        weight_decay: 0.05,
        // The one that was left out is no step.
        step: if step > LEFT_OUT { step - 1 } else { step },
        gradient_factor: 1.0 / 4096.0,
        max_norm: 1.0,
        ..AdamW::default()
    }
}

fn case<W: Float>(device: &Device, n: usize, copy: bool) -> Result<Outcome, String> {
    let mut noise = Noise::new(n * 5 + usize::from(copy));
    let weights = noise.normal(n, 0.05);
    let steps: Vec<(Vec<f32>, f32)> = (1..=STEPS)
        .map(|step| {
            let mut gradient = noise.normal(n, 50.0);
            // Elements without gradients, and with tiny ones.
            for (i, g) in gradient.iter_mut().enumerate() {
                *g *= [1.0, 1e-3, 1e-12, 0.0][if i % 5 == 0 { i / 5 % 4 } else { 0 }];
            }
            // Norms of 0.5 and 2.5: every other step is clipped.
            let norm = 4096.0 * if step % 2 == 0 { 0.5f32 } else { 2.5 };
            let sum = if step == LEFT_OUT {
                f32::INFINITY
            } else {
                norm * norm
            };
            (gradient, sum)
        })
        .collect();
    let run = |poison, clip: bool| {
        let mut first = held(device, &vec![0.0; n], poison)?;
        let mut second = held(device, &vec![0.0; n], poison)?;
        let mut master = held(device, &weights, poison)?;
        let mut working = Output::<W>::new(device, n, poison)?;
        for (step, (gradient, sum)) in (1..).zip(&steps) {
            let mut settings = settings(step);
            if !clip && step == STEPS {
                settings.max_norm = f32::INFINITY;
            }
            let gradient = device.upload(gradient)?;
            let norm = device.upload(&[*sum, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
            let moments = Moments {
                first: first.target(),
                second: second.target(),
            };
            let working = copy.then(|| working.target());
            adamw(
                &settings,
                &gradient,
                &norm,
                moments,
                master.target(),
                working,
            )?;
        }
        let working = if copy { working.read()? } else { Vec::new() };
        let moments = (first.read()?, second.read()?);
        Ok((moments, (master.read()?, working)))
    };
    let got = twice(|poison| run(poison, true))?;
    let broken = if n > 0 {
        Some(run(POISONS[0], false).map_err(line)?)
    } else {
        None
    };

    let rounding = rounding(device);
    let mut want = State::<f64>::new(&weights);
    let mut errors = State::<f64>::new(&vec![0f32; n]);
    for (step, (gradient, sum)) in (1..).zip(&steps) {
        let (settings, sum) = (settings(step), f64::from(*sum));
        let before = want.clone();
        reference(&settings, gradient, sum, &mut want);
        error_bound(&settings, gradient, sum, &before, &mut errors, &rounding);
    }
    let compare = Compare {
        rounding,
        want: &want,
        errors: &errors,
    };
    let broken = broken.as_ref();
    let mut outcomes = vec![
        compare.judge(&got.0.0, broken.map(|b| &b.0.0[..]), |state| &state.first)?,
        compare.judge(&got.0.1, broken.map(|b| &b.0.1[..]), |state| &state.second)?,
        compare.judge(&got.1.0, broken.map(|b| &b.1.0[..]), |state| &state.master)?,
    ];
    if copy {
        outcomes.push(compare.judge(&got.1.1, broken.map(|b| &b.1.1[..]), |state| &state.master)?);
    }
    Ok(add_up(outcomes))
}

struct Compare<'a> {
    rounding: nearmiss::ops::Rounding,
    want: &'a State<f64>,
    errors: &'a State<f64>,
}

impl Compare<'_> {
    fn judge<T: Float>(
        &self,
        got: &[T],
        broken: Option<&[T]>,
        of: impl Fn(&State<f64>) -> &Vec<f64>,
    ) -> Result<Outcome, String> {
        let (want, errors) = (of(self.want), of(self.errors));
        let bound = |bytes| {
            let stored = |(&w, &e): (&f64, &f64)| match bytes {
                // The errors are those of stored f32 already.
                4 => e,
                _ => self.rounding.store(w, e, bytes),
            };
            want.iter().zip(errors).map(stored).collect()
        };
        judge(got, broken, want, bound, &self.rounding)
    }
}

/// One step of equal elements, all of which have to become the same number.
fn spread(device: &Device, n: usize) -> Result<Outcome, String> {
    let (gradient, weight, sum) = (0.5f32, 1.0f32, 1.0f32);
    let settings = settings(1);
    let of = |value: f32| device.upload(&vec![value; n]).map_err(line);
    let (gradients, mut master) = (of(gradient)?, of(weight)?);
    let (mut first, mut second) = (of(0.0)?, of(0.0)?);
    let mut working = device.upload(&vec![f16::NAN; n]).map_err(line)?;
    let norm = device.upload(&[sum, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let moments = Moments {
        first: (&mut first).into(),
        second: (&mut second).into(),
    };
    let copy = Some(working.as_slice_mut());
    let norm = norm.map_err(line)?;
    adamw(&settings, &gradients, &norm, moments, &mut master, copy).map_err(line)?;

    let rounding = rounding(device);
    let before = State::<f64>::new(&[weight]);
    let (mut want, mut errors) = (before.clone(), State::<f64>::new(&[0f32]));
    reference(&settings, &[gradient], sum.into(), &mut want);
    error_bound(
        &settings,
        &[gradient],
        sum.into(),
        &before,
        &mut errors,
        &rounding,
    );
    let compare = Compare {
        rounding,
        want: &want,
        errors: &errors,
    };
    Ok(add_up([
        compare.judge(&same(&first)?, None, |state| &state.first)?,
        compare.judge(&same(&second)?, None, |state| &state.second)?,
        compare.judge(&same(&master)?, None, |state| &state.master)?,
        compare.judge(&same(&working)?, None, |state| &state.master)?,
    ]))
}

/// The one number that all elements are.
fn same<T: Float>(buffer: &Buffer<T>) -> Result<[T; 1], String> {
    let values = buffer.read().map_err(line)?;
    let other = values.iter().find(|v| v.to_f32() != values[0].to_f32());
    match other {
        Some(_) => Err("some elements were left out".into()),
        None => Ok([values[0]]),
    }
}
