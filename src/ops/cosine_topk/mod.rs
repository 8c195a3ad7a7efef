//! `ids, scores = the k rows of a corpus with the largest cosine to each query`
//!
//! Exact search in one pass over an f16 corpus: normalise, dot, select. Scores are never stored: each device keeps, per
//! query, a bounded list of candidates and a threshold (the k-th best so far) that a new score must reach. Ties go to
//! the lowest id, so the result does not depend on the order of evaluation. Cost: `2 n_q n d` FLOP against
//! `2 n d` bytes of corpus; memory `O(n_q (k + const))`, whatever the corpus.
//!
//! * **CPU**: blocks of rows are widened to f32 in cache, multiplied with all queries at once, and gated.
//! * **wgpu**: the corpus is walked in blocks; a block's scores that reach the threshold are appended to the query's
//!   candidate list, then a radix select keeps the best k and raises the threshold. Blocks double in size, since the
//!   expected number of admitted rows stays near k. Should an ordered corpus overflow a list, the search is repeated
//!   with blocks that cannot.
//! * **CUDA**: one launch over the corpus. Every block keeps a list per query, and all blocks count what they find in
//!   shared bins of scores: once the bins from some edge up hold k rows, nothing below that edge is looked at. A last
//!   launch selects and sorts what reached the final edge, a little more than k per query. The tensor cores take a query
//!   as the sum of two f16, so it loses nothing against the f32 of the other devices.
//!
//! A row's inverse norm is computed once ([`inverse_norms`]) and stored beside it. Rows that are zero have cosine 0;
//! rows that a filter excludes do not exist. Where fewer than `k` rows remain, the rest of the result is
//! ([`NO_ID`], `-inf`). Comes after [`mod@super::pool`]; [`crate::index::VectorIndex`] is its owner.

mod cpu;
mod cuda;
mod norms;
mod reference;
mod scores;
mod wgpu;

#[doc(hidden)]
pub use reference::{error_bound, reference, reference_scores};

pub(crate) use cpu::FEW;
pub use norms::inverse_norms;
pub(crate) use scores::{selects_on, top_scores};

use half::f16;

use super::OpSpec;
use crate::device::template::Source;
use crate::device::{Cost, Gpu, Kernel, Slice, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "cosine_topk",
    formula: "the k rows with the largest cosine to each query, ties to the lowest id",
    kernels: &[
        norms::INVERSE_NORMS,
        scores::LIST_SCORES,
        wgpu::SCORE,
        wgpu::SELECT_BEST,
        wgpu::SORT_BEST,
        cuda::SPLIT_QUERIES,
        cuda::SEARCH,
        cuda::MERGE,
    ],
    ptx: Some(PTX),
    ptx_variants: || [norms::variants(), scores::variants(), cuda::variants()].concat(),
    wgsl: Some(WGSL),
    wgsl_variants: || {
        super::in_every_tier([norms::variants(), scores::variants(), wgpu::variants()].concat())
    },
};

const WGSL: Source = Source {
    file: "cosine_topk.wgsl",
    text: include_str!("../../../shaders/cosine_topk.wgsl"),
};

const PTX: Source = Source {
    file: "cosine_topk.ptx",
    text: include_str!("../../../kernels/cosine_topk.ptx"),
};

/// A kernel of this operator that only the shader has.
const IN_WGSL: Kernel = Kernel {
    entry: "",
    params: &[],
    ptx: None,
    wgsl: Some(WGSL),
};

/// A kernel of this operator that only the PTX has.
const IN_PTX: Kernel = Kernel {
    ptx: Some(PTX),
    wgsl: None,
    ..IN_WGSL
};

/// The id of a result that does not exist.
pub const NO_ID: u32 = u32::MAX;

/// One piece of a corpus on a device.
#[derive(Clone, Copy)]
pub struct Shard<'a> {
    /// `[n, d]`.
    pub rows: Slice<'a, f16>,
    /// `[n]`, from [`inverse_norms`].
    pub inverse_norms: Slice<'a, f32>,
    /// Rows in use; the views may be longer.
    pub n: usize,
}

/// The result of a search, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    /// Results per query.
    pub k: usize,
    /// `[n_q, k]` row numbers counted over all shards; [`NO_ID`] where there are none left.
    pub ids: Vec<u32>,
    /// `[n_q, k]` cosines; `-inf` where there are none left.
    pub scores: Vec<f32>,
}

impl TopK {
    /// Nothing for each of `n_q` queries.
    fn none(n_q: usize, k: usize) -> Self {
        TopK {
            k,
            ids: vec![NO_ID; n_q * k],
            scores: vec![f32::NEG_INFINITY; n_q * k],
        }
    }

    /// The existing results of query `q`, best first.
    pub fn of(&self, q: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = q * self.k..(q + 1) * self.k;
        self.ids[range.clone()]
            .iter()
            .copied()
            .zip(self.scores[range].iter().copied())
            .take_while(|&(id, _)| id != NO_ID)
    }
}

/// What a search is asked.
struct Search<'a> {
    queries: Slice<'a, f32>,
    n_q: usize,
    d: usize,
    shards: &'a [Shard<'a>],
    filter: Option<Slice<'a, u32>>,
    k: usize,
}

impl<'a> Search<'a> {
    fn checked(
        queries: Slice<'a, f32>,
        d: usize,
        shards: &'a [Shard<'a>],
        filter: Option<Slice<'a, u32>>,
        k: usize,
    ) -> Result<Self> {
        let check = SPEC.checks(queries.device());
        check.width("d", d)?;
        let n_q = check.rows("queries", &queries, d)?;
        if k == 0 {
            return Err(Error::shape(SPEC.name, "k", "at least 1", k));
        }
        for shard in shards {
            let (rows, norms) = (shard.rows, shard.inverse_norms);
            check.holds("rows", &rows, rows.len().max(shard.n * d))?;
            check.holds("inverse_norms", &norms, norms.len().max(shard.n))?;
        }
        let search = Search {
            queries,
            n_q,
            d,
            shards,
            filter,
            k,
        };
        let n = search.rows();
        if n >= NO_ID as usize {
            return Err(Error::Invalid(format!(
                "a search over {n} rows: row numbers must stay below {NO_ID}; split the corpus"
            )));
        }
        check.optional("filter", &filter, n.div_ceil(32))?;
        Ok(search)
    }

    /// The device, if it can search for so many.
    fn on_gpu<'g>(&self, gpu: Gpu<'g>) -> Result<Gpu<'g>> {
        if self.k > GPU_MAX_K {
            let most = format!("at most {GPU_MAX_K} on this device");
            return Err(Error::shape(SPEC.name, "k", most, self.k));
        }
        Ok(gpu)
    }

    /// Shards with the number of rows before each.
    fn placed(&self) -> impl Iterator<Item = (usize, &Shard<'_>)> {
        self.shards.iter().scan(0, |next, shard| {
            let base = *next;
            *next += shard.n;
            Some((base, shard))
        })
    }

    fn rows(&self) -> usize {
        self.shards.iter().map(|s| s.n).sum()
    }
}

/// Largest k on a GPU: a list of so many candidates is sorted in 16 KiB of workgroup memory.
const GPU_MAX_K: usize = 2048;

/// Finds, for each of the `queries` `[n_q, d]`, the `k` rows of all `shards` with the largest cosine. `filter`, if
/// given, is a bit set over all rows (bit `r % 32` of word `r / 32`): only rows whose bit is set take part.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (`d` a multiple of 8, `k` at least 1 and on a GPU at most 2,048),
/// [`Error::Invalid`] for more than 2^32 - 1 rows.
///
/// ```
/// use half::f16;
/// use nearmiss::{Device, ops::cosine_topk::{Shard, cosine_topk, inverse_norms}};
/// let cpu = Device::cpu();
/// let mut corpus = vec![f16::ZERO; 3 * 8];
/// for row in 0..3 {
///     corpus[row * 8 + row] = f16::from_f32(2.0);
/// }
/// let rows = cpu.upload(&corpus)?;
/// let mut norms = cpu.alloc(3)?;
/// inverse_norms(&rows, 8, &mut norms)?;
/// let query = cpu.upload(&[0.1f32, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// let shard = Shard { rows: (&rows).into(), inverse_norms: (&norms).into(), n: 3 };
/// let found = cosine_topk(&query, 8, &[shard], None, 2)?;
/// assert_eq!(found.ids, [2, 0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn cosine_topk<'a>(
    queries: impl Into<Slice<'a, f32>>,
    d: usize,
    shards: &[Shard<'_>],
    filter: Option<Slice<'_, u32>>,
    k: usize,
) -> Result<TopK> {
    let search = Search::checked(queries.into(), d, shards, filter, k)?;
    let device = search.queries.device();
    let mut found = TopK::none(search.n_q, k);
    if search.rows() == 0 || search.n_q == 0 {
        return Ok(found);
    }
    device.run(SPEC.name, cost(&search), |target| match target {
        Target::Cpu => {
            cpu::cosine_topk(&search, &mut found);
            Ok(())
        }
        Target::Gpu(gpu) => match search.on_gpu(gpu)? {
            Gpu::Wgpu(_) => wgpu::cosine_topk(gpu, &search, &mut found),
            Gpu::Cuda(cuda) => {
                store(&cuda::cosine_topk(cuda, &search)?.read()?, 0, &mut found);
                Ok(())
            }
        },
    })?;
    Ok(found)
}

/// Enqueues a search without a filter and leaves its result on the device, for benches: what a search takes there.
///
/// # Errors
/// As [`cosine_topk`], and [`Error::Unsupported`] on other devices than CUDA.
#[doc(hidden)]
pub fn enqueue<'a>(
    queries: impl Into<Slice<'a, f32>>,
    d: usize,
    shards: &[Shard<'_>],
    k: usize,
) -> Result<()> {
    let search = Search::checked(queries.into(), d, shards, None, k)?;
    let device = search.queries.device();
    device.run(SPEC.name, cost(&search), |target| match target {
        Target::Gpu(Gpu::Cuda(cuda)) => {
            search.on_gpu(Gpu::Cuda(cuda))?;
            cuda::cosine_topk(cuda, &search).map(drop)
        }
        _ => Err(SPEC.unsupported(device, "its searches wait for their results")),
    })
}

fn cost(search: &Search<'_>) -> Cost {
    let (n, n_q, d) = (search.rows(), search.n_q, search.d);
    Cost {
        flop: 2 * (n * n_q * d) as u64,
        bytes: (n * (2 * d + 4) + n_q * (4 * d + 8 * search.k)) as u64,
    }
}

/// Puts (score bits, id) pairs, `k` per query from query `first` on, into the result.
fn store(pairs: &[u32], first: usize, found: &mut TopK) {
    for (i, pair) in pairs.chunks_exact(2).enumerate() {
        let at = first * found.k + i;
        found.ids[at] = pair[1];
        found.scores[at] = if pair[1] == NO_ID {
            f32::NEG_INFINITY
        } else {
            f32::from_bits(pair[0])
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn fewer_rows_than_k_leave_gaps_that_are_marked() {
        let cpu = Device::cpu();
        let rows = cpu.upload(&[f16::ONE; 16]).unwrap();
        let mut norms = cpu.alloc(2).unwrap();
        inverse_norms(&rows, 8, &mut norms).unwrap();
        let query = cpu.upload(&[1f32; 8]).unwrap();
        let shard = Shard {
            rows: rows.as_slice(),
            inverse_norms: norms.as_slice(),
            n: 2,
        };
        let filter = cpu.upload(&[0b10u32]).unwrap();
        let found = cosine_topk(&query, 8, &[shard], Some(filter.as_slice()), 3).unwrap();
        assert_eq!(found.ids, [1, NO_ID, NO_ID]);
        assert_eq!(found.of(0).count(), 1);
        assert!(found.scores[1] == f32::NEG_INFINITY);
    }
}
