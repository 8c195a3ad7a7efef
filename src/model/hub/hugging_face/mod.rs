//! The Hugging Face cache and Hub.

#[cfg(feature = "hub")]
mod client;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{BackboneSource, in_home, var};

/// Where the Hub and its cache are.
#[cfg_attr(
    not(feature = "hub"),
    allow(dead_code, reason = "read by the Hub client only")
)]
pub(super) struct Place {
    pub cache: Option<PathBuf>,
    pub endpoint: String,
    pub token: Option<String>,
    pub offline: bool,
    /// Longest wait for the first answer.
    pub connect: Duration,
    /// Longest wait between two pieces of data after that.
    pub stall: Duration,
}

impl Place {
    pub fn from_env() -> Self {
        // huggingface_hub uses ~/.cache on every platform, so this is not the platform's folder for caches.
        let hf_home = var("HF_HOME").map(PathBuf::from).or_else(|| {
            var("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| in_home(".cache"))
                .map(|folder| folder.join("huggingface"))
        });
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Place {
            cache: var("HF_HUB_CACHE")
                .map(PathBuf::from)
                .or_else(|| hf_home.as_ref().map(|folder| folder.join("hub"))),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: text("HF_TOKEN").or_else(|| {
                let token = fs::read_to_string(hf_home?.join("token")).ok()?;
                Some(token.trim().to_string()).filter(|token| !token.is_empty())
            }),
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|v| ["1", "on", "yes", "true"].contains(&&*v.to_lowercase())),
            connect: Duration::from_secs(8),
            stall: Duration::from_secs(30),
        }
    }

    /// The cached snapshot of a repository's main branch, if it has a model, and whether it has all the rest too.
    pub fn snapshot(&self, repository: &str) -> Option<(PathBuf, bool)> {
        #[cfg(feature = "hub")]
        return client::snapshot(repository, self);
        #[cfg(not(feature = "hub"))]
        {
            let _ = repository;
            None
        }
    }

    /// Downloads what the snapshot lacks of the model's files.
    ///
    /// The error is a reason to print, not an [`crate::Error`]: there may be another way.
    pub fn fetch(
        &self,
        repository: &str,
        progress: bool,
        log: &mut dyn FnMut(&str),
    ) -> Result<(PathBuf, BackboneSource), String> {
        #[cfg(feature = "hub")]
        return client::fetch(repository, self, progress, log);
        #[cfg(not(feature = "hub"))]
        {
            let _ = (repository, progress, log);
            Err("this program was built without the feature `hub`".into())
        }
    }
}
