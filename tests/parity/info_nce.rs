//! Cases of `info_nce`; broken variant: the last candidate is an anchor that sees it.

use nearmiss::device::Device;
use nearmiss::ops::OwnRows;
use nearmiss::ops::info_nce::{InfoNce, error_bound, info_nce, reference};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, sum, twice,
    where_bindings_end, with_small_bindings,
};

/// Anchors, candidates and width.
type Shape = (usize, usize, usize);

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (b, m, d) in [
        (1, 1, 8),
        (1, 6, 64),
        (31, 62, 24),
        (33, 67, 96),
        (65, 129, 384),
        // Tiles of 64 in the PTX kernel: of the scores, of the candidates' gradients, and of the anchors' too.
        (450, 580, 8),
        (3, 520, 512),
        (9, 10, 4096),
    ] {
        for own in [false, true] {
            cases.push(Case {
                op: "info_nce",
                name: format!("b={b},m={m},d={d},own={own}"),
                on: anywhere,
                run: Box::new(move |device| case(device, (b, m, d), own)),
            });
        }
    }
    cases.push(Case {
        op: "info_nce",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| {
            with_small_bindings(device, |small| case(small, (300, 601, 8), true))
        }),
    });
    cases
}

fn case(device: &Device, (b, m, d): Shape, own: bool) -> Result<Outcome, String> {
    let mut noise = Noise::new(b * 31 + m * 7 + d);
    let unit = 1.0 / (d as f32).sqrt();
    let (anchors, candidates) = (noise.normal(b * d, unit), noise.normal(m * d, unit));
    let owner = |j: usize| (j >= b && j.is_multiple_of(3)).then_some((j % b) as u32);
    let owners: Vec<Option<u32>> = (0..m).map(owner).collect();
    let (scale, gradient_scale) = (10.0, 1024.0);
    let run = |poison, candidates: &[f32]| {
        let (a, c) = (device.upload(&anchors)?, device.upload(candidates)?);
        let owners = own.then(|| OwnRows::new(device, &owners)).transpose()?;
        let batch = InfoNce {
            anchors: (&a).into(),
            candidates: (&c).into(),
            own: owners.as_ref(),
            d,
            scale,
            gradient_scale,
        };
        let mut losses = Output::<f32>::new(device, b, poison)?;
        let mut d_anchors = Output::<f32>::new(device, b * d, poison)?;
        let mut d_candidates = Output::<f32>::new(device, m * d, poison)?;
        info_nce(
            &batch,
            losses.target(),
            d_anchors.target(),
            d_candidates.target(),
        )?;
        Ok(((losses.read()?, d_anchors.read()?), d_candidates.read()?))
    };
    let ((losses, d_anchors), d_candidates) = twice(|poison| run(poison, &candidates))?;
    let broken = if m > 1 {
        let mut wrong = candidates.clone();
        let seeing = (m - 1) % b;
        wrong[(m - 1) * d..].copy_from_slice(&anchors[seeing * d..][..d]);
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let owners = own.then_some(&owners[..]);
    let rounding = rounding(device);
    let want = reference::<f64, f32>(&anchors, &candidates, owners, d, scale, gradient_scale);
    let bound = error_bound(
        &anchors,
        &candidates,
        owners,
        d,
        scale,
        gradient_scale,
        &rounding,
    );
    let broken = broken.as_ref();
    let held = |got: &[f32], broken: Option<&[f32]>, want: &[f64], bound: &[f64]| {
        judge(got, broken, want, |_| bound.to_vec(), &rounding)
    };
    Ok(sum([
        held(
            &losses,
            broken.map(|b| &b.0.0[..]),
            &want.losses,
            &bound.losses,
        )?,
        held(
            &d_anchors,
            broken.map(|b| &b.0.1[..]),
            &want.d_anchors,
            &bound.d_anchors,
        )?,
        held(
            &d_candidates,
            broken.map(|b| &b.1[..]),
            &want.d_candidates,
            &bound.d_candidates,
        )?,
    ]))
}
