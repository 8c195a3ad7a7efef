//! That the suite itself can fail.

use std::cell::Cell;
use std::collections::BTreeSet;

use half::f16;
use nearmiss::Device;
use nearmiss::device::DeviceKind;
use nearmiss::ops::Rounding;

use super::cases::{Output, POISONS, filled, inside, judge, twice, unlisted};

/// Sums as f32 and then as f16, both to nearest.
fn stored(sums: &[f64]) -> Vec<f16> {
    sums.iter().map(|&s| f16::from_f32(s as f32)).collect()
}

/// Values over a few binades, between the numbers of f16.
fn values() -> Vec<f64> {
    (0..200_000)
        .map(|i| (f64::from(i) * 0.618_033_988_75).fract() * 3.0 + 0.1)
        .collect()
}

/// Rounding to f16 alone takes a result to its bound and says nothing about the arithmetic; what is recorded of that
/// tells errors apart that are far below it.
pub fn the_arithmetic_shows_behind_the_rounding_to_f16() {
    for kind in [DeviceKind::Cpu, DeviceKind::Wgpu] {
        let rounding = Rounding::of(kind);
        let want = values();
        // A sum of which the arithmetic may be off by 100 roundings.
        let e = |w: f64| 100.0 * rounding.u * w;
        let bound = |bytes| {
            want.iter()
                .map(|&w| rounding.store(w, e(w), bytes))
                .collect()
        };
        let off = |share: f64| -> Vec<f64> { want.iter().map(|&w| w + share * e(w)).collect() };
        for share in [0.0, 0.05, 0.3, 0.95] {
            let outcome = judge(&stored(&off(share)), None, &want, bound, &rounding)
                .expect("within its bound");
            // Half a unit in the last place; where either neighbour may be stored, of a whole one.
            let least = if kind == DeviceKind::Cpu { 0.9 } else { 0.45 };
            assert!(outcome.worst > least, "{outcome:?}");
            // Storing as f32 is one rounding of the 100.
            let found = outcome.arithmetic_f16;
            assert!(
                found <= share + 0.01 && found >= 0.8 * share,
                "{kind}: {share} of the bound, found {found}"
            );
        }
        // Beyond the bound it fails, unless the device may have stored the other neighbour.
        let beyond = judge(&stored(&off(1.5)), None, &want, bound, &rounding);
        assert_eq!(beyond.is_err(), kind == DeviceKind::Cpu, "{beyond:?}");
    }
}

/// The two ways in which a number of f16 can be the result of rounding, at the ends of its range too.
pub fn a_rounded_number_is_no_error_of_the_arithmetic() {
    for kind in [DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Wgpu] {
        let rounding = Rounding::of(kind);
        let want = [
            0.0, 1e-9, -1e-7, 3e-5, -0.1, 1.0, 2049.0, 65_519.0, -65_519.0,
        ];
        let got = stored(&want);
        let bound = |bytes| {
            want.iter()
                .map(|&w| rounding.store(w, 0.0, bytes))
                .collect()
        };
        let outcome = judge(&got, None, &want, bound, &rounding).expect("rounded");
        assert_eq!(outcome.arithmetic_f16, 0.0, "{kind}");
        // The next number but one is not what a number of the normal range may be rounded to.
        for (&got, &want) in got.iter().zip(&want).filter(|(_, w)| w.abs() > 0.01) {
            let far = f16::from_bits(got.to_bits() + 2);
            let bound = |bytes| vec![rounding.store(want, 0.0, bytes)];
            assert!(
                judge(&[far], None, &[want], bound, &rounding).is_err(),
                "{kind}: {want}"
            );
        }
    }
}

/// An element that an operator leaves as it was, finite or not.
pub fn an_output_that_is_left_as_it_was_is_found() {
    let cpu = Device::cpu();
    let why = twice(|poison| {
        let mut written = Output::<f16>::new(&cpu, 3, poison)?.read()?;
        written[..2].fill(f16::ONE);
        Ok(written)
    })
    .expect_err("one element is not written");
    assert!(why.contains("first at byte 4"), "{why}");
}

/// An element that is none of the output's.
pub fn a_guard_that_is_written_is_found() {
    let (len, guard) = (3, 128);
    let untouched = filled::<f16>(len + 2 * guard, POISONS[0]);
    assert_eq!(
        inside(&untouched, POISONS[0])
            .expect("nothing was written")
            .len(),
        len
    );
    for (at, element) in [
        (0, -128),
        (guard - 1, -1),
        (guard + len, 3),
        (len + 2 * guard - 1, 130),
    ] {
        let mut all = untouched.clone();
        all[at] = f16::ONE;
        assert_eq!(
            inside(&all, POISONS[0]).expect_err("a guard was written"),
            format!("element {element} of an output of 3 was written")
        );
    }
}

/// A result that another run does not repeat.
pub fn runs_that_differ_are_found() {
    let runs = Cell::new(0);
    let result = || {
        runs.set(runs.get() + 1);
        // Equal as numbers.
        if runs.get() == 1 { 0.0f32 } else { -0.0 }
    };
    let why = twice(|_| Ok(vec![1.0f32, result()])).expect_err("two runs");
    assert!(why.contains("first at byte 7"), "{why}");
}

/// A kernel variant that its operator does not list.
pub fn a_variant_that_is_not_listed_is_found() {
    let variant = |heads| ("attention", format!("heads={heads}"));
    let listed = BTreeSet::from([variant(1), variant(2)]);
    assert_eq!(unlisted(&[variant(2)], &listed), Ok(()));
    let why = unlisted(&[variant(2), variant(3)], &listed).expect_err("3 is not listed");
    assert_eq!(
        why,
        "attention [heads=3] is compiled, but its operator does not list it"
    );
}
