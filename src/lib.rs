//! placeholder
pub mod device;
pub mod error;
pub mod ops;
pub mod template;
pub use device::{Device, DeviceKind};
pub use error::{Error, Result};
