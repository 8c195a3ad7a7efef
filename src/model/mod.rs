//! What a model folder is: where it comes from ([`hub`]), what it says ([`config`], [`head`], [`folder`]; [`keys`]
//! decides on every key), and its weights ([`checkpoint`] as a file, [`weights`] as a table over flat memory). All of it is
//! read and written.

pub mod checkpoint;
pub mod config;
pub mod folder;
pub mod head;
pub mod hub;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use config::{BertConfig, PoolingConfig};
pub use folder::ModelFolder;
pub use head::HeadConfig;

pub use crate::text::keys;
