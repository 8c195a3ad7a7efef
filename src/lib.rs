//! Hand-written GPU kernels for dense retrieval and its verification, and the encoder that runs on them.
//!
//! ```text
//! text -> tokens -> encoder -> embeddings    -> cosine top-k -> candidates -> metrics -> report
//!                           -> token vectors -> maps, MaxSim -> verifiers  ->
//! ```
//!
//! * [`device`]: a [`Device`] is the CPU, an NVIDIA GPU (hand-written PTX, the driver alone) or a Vulkan/Metal adapter
//!   (hand-written WGSL); one API, no fallback in silence.
//! * [`ops`]: the operators, each with its definition, a reference in f64, a derived error bound and its kernels.
//! * [`encoder`]: BERT-family sentence encoders from the usual model folder.
//! * [`model`]: model folders, found or fetched by name.
//! * [`index`]: [`index::VectorIndex`], exact cosine search over an f16 corpus; [`index::TokenIndex`], the same by MaxSim
//!   over token vectors.
//! * [`verifier`]: scorers of pairs of texts.
//! * [`train`]: training of encoders with in-batch negatives.
//! * [`text`], [`data`], [`metrics`]: tokens; collections, near-misses and the grammars that write built-in ones; ranking,
//!   separation and geometry. They know no device.
//! * [`study`]: the experiments, as `run-study` runs them.
//!
//! ```no_run
//! use nearmiss::{Device, encoder::Encoder, index::VectorIndex, text::TextKind};
//!
//! let device = Device::auto();
//! let encoder = Encoder::from_name("all-MiniLM-L6-v2", &device)?;
//! let mut index = VectorIndex::new(&device, encoder.width())?;
//! index.append_texts(&encoder, &["the dog bites the man", "a quiet street"], TextKind::Document)?;
//! let query = encoder.embed(&["who bites the man?"], TextKind::Query)?;
//! println!("{:?}", index.search(&query, 1)?);
//! # Ok::<(), nearmiss::Error>(())
//! ```
//!
//! Dependencies point one way: `error <- device <- ops <- model <- encoder <- index <- verifier <- train <- study`.

pub mod data;
pub mod device;
pub mod encoder;
pub mod error;
pub mod index;
pub mod metrics;
pub mod model;
pub mod ops;
mod random;
#[cfg(feature = "study")]
pub mod study;
pub mod text;
pub mod train;
pub mod verifier;

pub use device::{Device, DeviceKind};
pub use error::{Error, Result};

/// The README's example is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
