//! `attention_backward` over packed texts of one length, probabilities dropped.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::attention::{Training, WorkList, attention_saving};
use nearmiss::ops::attention_backward::{
    Forward, Inputs, SPEC, attention_backward, error_bound, reference,
};
use nearmiss::ops::dropout::{Mask, Site};
use nearmiss::ops::{Origins, PackedTexts};

use super::{
    CHECK, Case, Context, HEADS, Prepared, Recorded, copies, json, noise, offsets, packings,
    poisoned, rounding, single, widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let (heads, dim) = HEADS;
    let case = |&(n, l): &(usize, usize)| Case {
        op: SPEC.name,
        shape: format!("{n} texts x {l} tokens, {heads} x {dim}"),
        sizes: json!({"texts": n, "tokens": l, "heads": heads, "head_dim": dim}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            if single(context) {
                prepare::<f32>(context, n, l)
            } else {
                prepare::<f16>(context, n, l)
            }
        }),
    };
    packings(context.scale).iter().map(case).collect()
}

struct Set<A: Float> {
    qkv: Buffer<A>,
    context: Buffer<A>,
    statistics: Buffer<f32>,
    d_context: Buffer<A>,
    d_qkv: Buffer<A>,
}

fn prepare<A: Float>(context: &Context, n: usize, l: usize) -> Result<Prepared> {
    let device = &context.device;
    let (heads, dim) = HEADS;
    let (t, d) = (n * l, heads * dim);
    let bytes = (8 * t * d * size_of::<A>() + 4 * t * heads) as u64;
    let sets = context.sets(bytes);
    let (qkv, d_context) = (noise::<A>(t * 3 * d, 1.0, 1), noise::<A>(t * d, 1.0, 2));
    let texts = PackedTexts::new(device, offsets(n, l))?;
    let work = WorkList::new(&texts)?;
    let numbers: Vec<u32> = (0..n as u32).collect();
    let origins = Origins::new(&texts, &numbers)?;
    let mask = Mask::new(0.1, 1, 2, 3, Site::Probabilities);
    let mut inputs = Vec::new();
    let gradients = copies(device, device.upload(&d_context)?, sets)?;
    for (qkv, d_context) in copies(device, device.upload(&qkv)?, sets)?
        .into_iter()
        .zip(gradients)
    {
        let (mut context, mut statistics) = (device.alloc(t * d)?, device.alloc(t * heads)?);
        let training = Training {
            statistics: (&mut statistics).into(),
            mask: Some((mask, &origins)),
        };
        attention_saving(&qkv, &texts, &work, heads, dim, training, &mut context)?;
        inputs.push(Set {
            qkv,
            context,
            statistics,
            d_context,
            d_qkv: poisoned(device, t * 3 * d)?,
        });
    }
    let mut call = move |i: usize| {
        let set = &mut inputs[i % sets];
        let forward = Forward {
            qkv: set.qkv.as_slice(),
            context: set.context.as_slice(),
            statistics: set.statistics.as_slice(),
            mask: Some((mask, &origins)),
            texts: &texts,
            work: &work,
            n_heads: heads,
            head_dim: dim,
        };
        attention_backward(&forward, &set.d_context, &mut set.d_qkv)?;
        Ok::<_, nearmiss::Error>(if i == CHECK {
            Some((
                set.context.read()?,
                set.statistics.read()?,
                set.d_qkv.read()?,
            ))
        } else {
            None
        })
    };
    let (saved, statistics, got) = call(CHECK)?.expect("what is checked is read");
    // A text sees no other: of the last one alone.
    let last = (n - 1) * l;
    let text: Vec<usize> = (last..t).collect();
    let inputs = Inputs {
        qkv: &widen(&qkv[last * 3 * d..])[..],
        context: &widen(&saved[last * d..]),
        statistics: &statistics[last * heads..],
        d_context: &widen(&d_context[last * d..]),
        offsets: &offsets(1, l),
        n_heads: heads,
        head_dim: dim,
        dropped: Some((mask, &numbers[n - 1..])),
    };
    let want = reference::<f64>(&inputs);
    let bound = error_bound(&inputs, size_of::<A>(), &rounding(context));
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, 3 * d, &text, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "tokens"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
