//! From text to packed batches of token ids: `texts -> Tokenizer -> Vec<Vec<u32>> -> plan_batches, pack -> Batch`.
//!
//! * [`Tokenizer`] reads the tokenizer of a model folder, settles the length limit, applies the model's prompts and
//!   tokenises many texts at once on all cores.
//! * [`batch`] turns the token lists into batches without padding: texts of like length go together, and a batch holds
//!   as many texts as fit a budget of tokens.
//!
//! * [`keys`] says what becomes of every key of a model folder's files, those of other modules too.
//!
//! Nothing here knows of a device; what comes next is the encoder.

pub mod batch;
pub mod keys;
pub mod rules;
mod tokenizer;

pub use batch::{Batch, pack, plan_batches};
pub use tokenizer::{Prompts, TextKind, Tokenized, Tokenizer};

/// Line breaks of a foreign message become spaces: errors are one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
