//! Training of sentence encoders with in-batch negatives: everything around the step.
//!
//! ```text
//! files -> rows (data::triplets) -> arms -> Sampler -> Batches -> packed chunks -> step -> Curve, checkpoint
//! ```
//!
//! * [`TrainOptions`] say what is wanted; with a model and its data they give a [`Plan`].
//! * [`arms`] mix rows for retrieval with structural ones; [`negatives`] finds negatives for rows without.
//! * [`Sampler`] puts rows into batches, [`Batches`] turns these into packed chunks, one batch ahead of the device.
//! * [`Trainer`] goes through the steps: gradients, in as many passes as the device has room for, and AdamW.
//! * [`schedule`] and [`scale`] say how large a step is and what keeps gradients in f16 away from zero.
//! * [`checkpoint`] keeps the state in one file, [`FolderLock`] keeps a second training out of the folder, and
//!   [`curve`] shows how it went.

pub mod arms;
pub mod batches;
pub mod checkpoint;
mod course;
pub mod curve;
mod group;
pub mod lock;
pub mod negatives;
pub mod options;
pub mod pairs;
pub mod sampler;
pub mod scale;
pub mod schedule;
pub mod step;
pub mod trainer;

pub use batches::{Batches, Packing, Row, TextBatch, rows_sha256};
pub use checkpoint::{Identity, Snapshot, State};
pub use curve::{Curve, Point};
pub use lock::FolderLock;
pub use negatives::Negatives;
pub use options::{Dropout, Length, Plan, TrainOptions};
pub use sampler::{Position, Sampler};
pub use scale::LossScale;
pub use schedule::{Schedule, SizeClass};
pub use step::{Objective, Step};
pub use trainer::{Progress, Trained, Trainer};
