//! Graphs of small batches: what a batch enqueues, recorded once and replayed for every batch of the same shape.
//!
//! A query takes a GPU less time than the host needs to launch its few dozen kernels one by one; replayed, they are
//! one call. A shape is the list of text lengths in a batch: all sizes and launches follow from it. The first batch of
//! a shape runs plainly, since most never come again; the second is recorded; later ones are replayed. The results have
//! the same bits either way: the same kernels run on the same numbers.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, MutexGuard};

use crate::device::{Buffer, Device, Graph};
use crate::error::{Error, Result};
use crate::ops::attention::WorkList;
use crate::ops::{PackedTexts, TokenIds};
use crate::text::Batch;

/// Tokens of a batch up to which launching takes longer than computing.
pub(super) const MAX_TOKENS: usize = 1024;

/// Graphs kept unless the caller or the environment says otherwise. One holds the activations of its batch.
const DEFAULT_KEPT: usize = 32;

/// Shapes remembered after one use.
const REMEMBERED: usize = 256;

/// The environment variable that says how many graphs an encoder keeps.
const GRAPHS: &str = "NEARMISS_GRAPHS";

/// A packed batch on a device: what a forward pass reads besides the weights.
pub(super) struct Inputs {
    /// `[t]`.
    pub ids: TokenIds,
    pub texts: PackedTexts,
    pub work: WorkList,
}

impl Inputs {
    pub fn upload(device: &Device, batch: &Batch) -> Result<Self> {
        let texts = PackedTexts::new(device, batch.offsets.clone())?;
        Ok(Inputs {
            work: WorkList::new(&texts)?,
            ids: TokenIds::new(device, &batch.ids, &batch.positions)?,
            texts,
        })
    }
}

/// What is computed from a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Hidden states, `[t, d]`.
    Hidden,
    /// Embeddings, `[n, d]`.
    Embeddings,
}

/// What a graph was recorded for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    output: Output,
    offsets: Vec<u32>,
}

/// What became of the graphs of an [`super::Encoder`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphStats {
    /// Graphs recorded so far.
    pub recorded: u64,
    /// Batches that ran as a graph, the one for which it was recorded included.
    pub replayed: u64,
    /// Graphs given up for others, or because fewer are to be kept.
    pub evicted: u64,
    /// Graphs kept now.
    pub kept: usize,
    /// Bytes of device memory that these hold besides their inputs.
    pub bytes: u64,
}

/// The graphs of one encoder, least recently used first.
pub(super) struct Graphs {
    cache: Mutex<Cache>,
}

struct Cache {
    most: usize,
    seen: VecDeque<Shape>,
    ready: Vec<(Shape, Graph<Inputs, Buffer<f32>>)>,
    stats: GraphStats,
}

impl Graphs {
    /// None yet, and at most as many as the environment says, or 32.
    ///
    /// # Errors
    /// [`Error::Usage`] if the environment variable is neither `off` nor a number.
    pub fn new() -> Result<Self> {
        let wanted = std::env::var(GRAPHS).ok();
        Ok(Graphs {
            cache: Mutex::new(Cache {
                most: kept_by(wanted.as_deref())?.unwrap_or(DEFAULT_KEPT),
                seen: VecDeque::new(),
                ready: Vec::new(),
                stats: GraphStats::default(),
            }),
        })
    }

    /// Keeps at most `most` graphs from now on.
    pub fn set_most(&self, most: usize) {
        let mut cache = self.lock();
        cache.most = most;
        cache.shrink(most);
    }

    /// Gives up all graphs; `true` if there were any.
    pub fn clear(&self) -> bool {
        let mut cache = self.lock();
        cache.seen.clear();
        let any = !cache.ready.is_empty();
        cache.shrink(0);
        any
    }

    pub fn stats(&self) -> GraphStats {
        let cache = self.lock();
        GraphStats {
            kept: cache.ready.len(),
            bytes: cache.ready.iter().map(|(_, graph)| graph.bytes()).sum(),
            ..cache.stats
        }
    }

    /// Runs `work` on a batch as a graph and gives its output to `take`, which must copy what it needs: the memory is
    /// overwritten by the next batch of this shape. `None` where the batch is better run plainly.
    ///
    /// # Errors
    /// What the device or `take` report. A failure to record is no error: it is said on standard error, once, and this
    /// encoder makes no more graphs.
    pub fn run<R>(
        &self,
        device: &Device,
        output: Output,
        batch: &Batch,
        work: impl Fn(&Inputs) -> Result<Buffer<f32>>,
        take: impl FnOnce(&Buffer<f32>) -> Result<R>,
    ) -> Result<Option<R>> {
        // An empty batch launches nothing; what does not fit together is for the operators to refuse; profiling wants
        // every operator on its own.
        let t = batch.ids.len();
        let ends = batch.offsets.last().is_some_and(|&end| end as usize == t);
        let whole = batch.positions.len() == t && ends;
        if !device.records() || t == 0 || t > MAX_TOKENS || !whole || device.profiling() {
            return Ok(None);
        }
        // Held to the end: a graph has one set of inputs and outputs.
        let mut cache = self.lock();
        if cache.most == 0 {
            return Ok(None);
        }
        let shape = Shape {
            output,
            offsets: batch.offsets.clone(),
        };
        if let Some(at) = cache.ready.iter().position(|(s, _)| *s == shape) {
            // The most recently used one is the last.
            cache.ready[at..].rotate_left(1);
            let (_, graph) = cache.ready.last_mut().expect("one was found");
            graph.inputs_mut().ids.write(&batch.ids, &batch.positions)?;
        } else if let Some(at) = cache.seen.iter().position(|s| *s == shape) {
            cache.seen.remove(at);
            let recorded =
                Inputs::upload(device, batch).and_then(|inputs| device.record(inputs, work));
            match recorded {
                Ok(graph) => cache.keep(shape, graph),
                Err(e) => {
                    cache.give_up(device, &e);
                    return Ok(None);
                }
            }
        } else {
            if cache.seen.len() == REMEMBERED {
                cache.seen.pop_front();
            }
            cache.seen.push_back(shape);
            return Ok(None);
        }
        cache.stats.replayed += 1;
        let (_, graph) = cache.ready.last_mut().expect("found or recorded above");
        graph.launch()?;
        take(graph.outputs()).map(Some)
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(|p| p.into_inner())
    }
}

impl Cache {
    /// Adds a graph, the most recently used one.
    fn keep(&mut self, shape: Shape, graph: Graph<Inputs, Buffer<f32>>) {
        self.shrink(self.most.saturating_sub(1));
        self.stats.recorded += 1;
        self.ready.push((shape, graph));
    }

    /// Gives up the least recently used graphs, until `most` are left.
    fn shrink(&mut self, most: usize) {
        let surplus = self.ready.len().saturating_sub(most);
        self.ready.drain(..surplus);
        self.stats.evicted += surplus as u64;
    }

    /// Makes no more graphs.
    fn give_up(&mut self, device: &Device, why: &Error) {
        self.most = 0;
        self.shrink(0);
        let _ = writeln!(
            std::io::stderr(),
            "note: small batches are launched kernel by kernel on {}, since they cannot be recorded: {why}",
            device.name()
        );
    }
}

/// How many graphs the environment variable wants kept, if it says.
fn kept_by(value: Option<&str>) -> Result<Option<usize>> {
    match value {
        None | Some("") => Ok(None),
        Some("off") => Ok(Some(0)),
        Some(number) => number.parse().map(Some).map_err(|_| {
            Error::Usage(format!(
                "{GRAPHS}={number}: use off, or how many graphs to keep"
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_how_many_are_kept() {
        assert_eq!(kept_by(None).unwrap(), None);
        assert_eq!(kept_by(Some("")).unwrap(), None);
        assert_eq!(kept_by(Some("off")).unwrap(), Some(0));
        assert_eq!(kept_by(Some("7")).unwrap(), Some(7));
        let error = kept_by(Some("-1")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("NEARMISS_GRAPHS=-1"), "{error}");
    }
}
