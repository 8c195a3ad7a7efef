//! What a model folder is: where it comes from and what it says.

pub mod config;
pub mod hub;

pub use config::{BertConfig, PoolingConfig};
