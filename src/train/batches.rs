//! Batches of rows as packed micro-batches, tokenised one batch ahead of the device.
//!
//! ```text
//! rows -> Sampler -> B triplets = 3 B texts -> Tokenizer -> longest first -> chunks of at most a budget of tokens
//! ```
//!
//! The texts of a logical batch are numbered: the first of every row `0 .. B`, the second `B .. 2 B` and so on, which are
//! anchors, positives and negatives where rows are triplets. A chunk says of each of its texts which number it has
//! ([`Batch::texts`]), and that is its row in the embeddings of the logical batch and its number in every dropout mask,
//! so that neither loss nor masks depend on where the batch is cut.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::sampler::{Position, Sampler};
use crate::data::Fingerprint;
use crate::data::triplets::Triplet;
use crate::error::{Error, Result};
use crate::text::{Batch, TextKind, Tokenizer, pack, plan_batches};

/// A row of training data: some texts, as many in every row.
pub trait Row: Send + Sync + 'static {
    /// How many.
    const TEXTS: usize;

    /// Text `i` of them; the first is the one that the others are compared with.
    fn text(&self, i: usize) -> &str;
}

/// SHA-256 over the texts of rows, in their order.
pub fn rows_sha256<R: Row>(rows: &[R]) -> String {
    let mut hash = Fingerprint::default();
    for row in rows {
        (0..R::TEXTS).for_each(|i| hash.field(row.text(i)));
    }
    hash.finish()
}

impl Row for Triplet {
    const TEXTS: usize = 3;

    fn text(&self, i: usize) -> &str {
        [&self.anchor, &self.positive, &self.negative][i]
    }
}

/// A logical batch, ready for the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextBatch {
    /// Its rows in the training data, `[B]`.
    pub rows: Vec<u32>,
    /// The texts of its rows in packed chunks, longest first; every text is in exactly one.
    pub chunks: Vec<Batch>,
    /// Tokens of all chunks.
    pub tokens: usize,
    /// Texts that lost their end at the length limit.
    pub truncated: usize,
    /// Where the sampler stands behind this batch: what a checkpoint keeps once the batch has been trained on.
    pub next: Position,
}

/// How texts become chunks.
#[derive(Clone, Debug)]
pub struct Packing {
    /// Tokenizer with the length limit of the training.
    pub tokenizer: Tokenizer,
    /// Most tokens of a chunk; a longer text is a chunk of its own.
    pub token_budget: usize,
    /// What the first texts of rows are to the model, and what the others are: which prompt is put before them.
    pub kinds: [TextKind; 2],
}

impl Packing {
    /// Tokenises and cuts the batch of these rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] that quotes the text for one that cannot be tokenised.
    pub fn pack<R: Row>(&self, data: &[R], rows: Vec<u32>, next: Position) -> Result<TextBatch> {
        let b = rows.len();
        let [anchors, others] = self.kinds;
        let texts: Vec<&str> = (0..R::TEXTS)
            .flat_map(|i| rows.iter().map(move |&row| data[row as usize].text(i)))
            .collect();
        let encode = |texts: &[&str], kind| {
            let tokens = self.tokenizer.encode_kind(texts, kind);
            tokens.map_err(|e| e.quoting_text(texts))
        };
        let mut tokens = encode(&texts[..b], anchors)?;
        let rest = encode(&texts[b..], others)?;
        tokens.ids.extend(rest.ids);
        let lengths = tokens.lengths();
        let plan = plan_batches(&lengths, self.token_budget, usize::MAX);
        Ok(TextBatch {
            chunks: plan.iter().map(|which| pack(&tokens.ids, which)).collect(),
            tokens: lengths.iter().sum(),
            truncated: tokens.n_truncated + rest.n_truncated,
            rows,
            next,
        })
    }
}

/// The batches of a training, from a thread that is one ahead.
///
/// A batch comes out as it would without the thread: only the time differs.
pub struct Batches {
    /// `None` once the thread is told to end.
    receiver: Option<Receiver<Result<TextBatch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Batches {
    /// Starts with the batch at which `sampler` stands.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no thread can be started, or if the sampler has other rows.
    pub fn start<R: Row>(data: Arc<[R]>, mut sampler: Sampler, packing: Packing) -> Result<Self> {
        if sampler.rows() != data.len() {
            return Err(Error::Invalid(format!(
                "a sampler of {} rows was given {}",
                sampler.rows(),
                data.len()
            )));
        }
        // No room: the thread holds the one batch that is ahead until it is asked for, then goes on to the next.
        let (sender, receiver) = sync_channel(0);
        let work = move || {
            loop {
                let rows = sampler.next_batch();
                let batch = rows.and_then(|rows| packing.pack(&data, rows, sampler.position()));
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("nearmiss-batches".into())
            .spawn(work)
            .map_err(|e| Error::Invalid(format!("cannot start a thread for batches: {e}")))?;
        Ok(Batches {
            receiver: Some(receiver),
            thread: Some(thread),
        })
    }

    /// The next batch; waits for it if it is not ready.
    ///
    /// # Errors
    /// As [`Sampler::next_batch`] and [`Packing::pack`]; what comes after an error is [`Error::Invalid`].
    pub fn next_batch(&mut self) -> Result<TextBatch> {
        let receiver = self.receiver.as_ref();
        match receiver.and_then(|receiver| receiver.recv().ok()) {
            Some(batch) => batch,
            None => Err(Error::Invalid(
                "the thread that prepares batches has ended".into(),
            )),
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::Category;
    use crate::random::Stream;

    fn packing(token_budget: usize) -> Packing {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-2x64");
        Packing {
            tokenizer: Tokenizer::load(folder, Some(16)).unwrap(),
            token_budget,
            kinds: [TextKind::Plain; 2],
        }
    }

    /// Rows of texts of very different lengths, some beyond the limit of 16 tokens.
    fn data(n: usize) -> Arc<[Triplet]> {
        let mut stream = Stream::new(5, &["texts"], 0);
        let mut text = || {
            let words = 1 + stream.below(20);
            let words = (0..words).map(|_| ["a", "the", "in", "of", "to"][stream.below(5)]);
            words.collect::<Vec<_>>().join(" ")
        };
        (0..n)
            .map(|_| Triplet {
                anchor: text(),
                positive: text(),
                negative: text(),
                category: Category::parse("x"),
            })
            .collect()
    }

    /// The tokens of every text by its number, or what is wrong with the chunks.
    fn tokens(batch: &TextBatch, budget: usize) -> Result<Vec<Vec<u32>>, String> {
        let mut all = vec![Vec::new(); 3 * batch.rows.len()];
        let mut before = usize::MAX;
        for chunk in &batch.chunks {
            if chunk.n_texts() > 1 && chunk.n_tokens() > budget {
                return Err(format!("{} tokens in a chunk", chunk.n_tokens()));
            }
            for (i, &number) in chunk.texts.iter().enumerate() {
                let [from, to] = [i, i + 1].map(|i| chunk.offsets[i] as usize);
                let text = &mut all[number as usize];
                if !text.is_empty() || to - from > before {
                    return Err(format!("text {number} is twice or out of order"));
                }
                text.extend(&chunk.ids[from..to]);
                if !chunk.positions[from..to]
                    .iter()
                    .copied()
                    .eq(0..(to - from) as u32)
                {
                    return Err(format!("text {number} has wrong positions"));
                }
                before = to - from;
            }
        }
        Ok(all)
    }

    #[test]
    fn no_budget_changes_what_a_text_is() {
        let data = data(40);
        let rows = vec![7, 39, 0, 21, 3];
        for budget in [1, 16, 17, 40, 100, 1 << 20] {
            let packing = packing(budget);
            let batch = packing
                .pack(&data, rows.clone(), Position::default())
                .unwrap();
            let all = tokens(&batch, budget).unwrap();
            for (i, &row) in rows.iter().enumerate() {
                let row = &data[row as usize];
                let texts = [&row.anchor, &row.positive, &row.negative];
                let expected = packing.tokenizer.encode_batch(&texts).unwrap().ids;
                let got = [i, rows.len() + i, 2 * rows.len() + i].map(|number| &all[number]);
                assert_eq!(got, [&expected[0], &expected[1], &expected[2]]);
            }
            assert_eq!(batch.tokens, all.iter().map(Vec::len).sum::<usize>());
            let full = all.iter().filter(|text| text.len() == 16).count();
            assert!(batch.truncated > 0 && batch.truncated <= full);
            let most = if budget < 100 { 15 } else { 14 };
            assert!(batch.chunks.len() <= most && (budget < 1000 || batch.chunks.len() == 1));
            // The check sees a text that is there twice, and one budget broken.
            let mut wrong = batch.clone();
            wrong.chunks.push(batch.chunks[0].clone());
            assert!(tokens(&wrong, budget).is_err());
            assert!(budget < 40 || tokens(&batch, 20).is_err());
        }
    }

    #[test]
    fn the_thread_gives_what_there_would_be_without_it() {
        let data = data(23);
        let sampler = || Sampler::new(23, 4, 9).unwrap();
        let mut plain = sampler();
        let mut batches = Batches::start(data.clone(), sampler(), packing(50)).unwrap();
        let mut position = Position::default();
        // Over the ends of epochs of five batches.
        for step in 0..12 {
            let rows = plain.next_batch().unwrap();
            let expected = packing(50).pack(&data, rows, plain.position()).unwrap();
            assert_eq!(batches.next_batch().unwrap(), expected);
            if step == 6 {
                position = expected.next;
            }
        }
        // What is ahead does not count: a training that was cut short behind the seventh batch goes on with the eighth.
        drop(batches);
        let mut resumed = sampler();
        resumed.seek(position).unwrap();
        let mut batches = Batches::start(data.clone(), resumed, packing(50)).unwrap();
        let mut plain = sampler();
        let rows = (0..8).map(|_| plain.next_batch().unwrap()).last().unwrap();
        assert_eq!(batches.next_batch().unwrap().rows, rows);
        let error = Batches::start(data, Sampler::new(24, 4, 9).unwrap(), packing(50)).err();
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("sampler of 24 rows was given 23")
        );
    }
}
