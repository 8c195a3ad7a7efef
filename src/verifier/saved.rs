//! A verifier that can be used: encoder, scorer and threshold, as a folder.
//!
//! ```text
//! verifier.json           what it is, the encoder it belongs to (by the hash of its weights), its threshold
//! verifier.safetensors    its weights
//! encoder/                the encoder, a model folder, if it was trained with the verifier
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Scorer;
use super::calibration::Calibration;
use super::learned::{Kind, Learned};
use crate::device::Device;
use crate::encoder::{Encoder, LoadOptions, token_budget};
use crate::error::{Error, Result};
use crate::index::TokenVectors;
use crate::model::checkpoint::Checkpoint;
use crate::model::hub::{FetchOptions, find_backbone};
use crate::ops::PairList;
use crate::text::TextKind;

/// The file that says what a verifier is.
pub const CONFIG: &str = "verifier.json";

/// Its weights.
const WEIGHTS: &str = "verifier.safetensors";

/// The encoder that was trained with it.
const ENCODER: &str = "encoder";

/// The layout that is written.
const VERSION: u32 = 1;

/// Pairs whose texts are on the device together.
const AT_ONCE: usize = 2048;

/// What `verifier.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Of this layout.
    version: u32,
    /// Which scorer: `f4`, ...
    pub verifier: String,
    /// Width of the token vectors that it reads.
    pub width: usize,
    /// Whether its scores depend on the padding of a batch ([`Learned::with_padding`]).
    #[serde(default)]
    pub padded: bool,
    /// Tokens that it sees of a text, special ones included.
    pub max_length: usize,
    /// Whose token vectors it reads.
    pub encoder: EncoderName,
    /// Where scores are accepted; `None` until somebody says.
    pub calibration: Option<Calibration>,
    /// How it was trained.
    pub training: serde_json::Value,
}

/// The encoder that a verifier belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderName {
    /// Name or folder; `encoder` for the folder beside the file.
    pub name: String,
    /// SHA-256 of its `model.safetensors`.
    pub sha256: String,
}

/// A verifier with its encoder and its threshold: says of two texts whether they mean the same.
///
/// ```no_run
/// use nearmiss::{Device, verifier::Verifier};
/// let guard = Verifier::load("results/guard/verifier".as_ref(), &Device::auto())?;
/// for verdict in guard.judge(&[["turn the light on", "turn the light off"]])? {
///     println!("{:.3} {}", verdict.score, if verdict.accepted { "same" } else { "not the same" });
/// }
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub struct Verifier {
    config: Config,
    encoder: Encoder,
    scorer: Learned,
}

/// How the folder of a verifier is read.
#[derive(Clone, Debug, Default)]
pub struct LoadVerifier {
    /// Where an encoder that is not in the folder may come from.
    pub fetch: FetchOptions,
    /// How the encoder is loaded.
    pub encoder: LoadOptions,
    /// Bytes for activations of the encoder; `None` takes what suits the device.
    pub memory: Option<u64>,
}

/// What a verifier says of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Higher is more alike in meaning.
    pub score: f64,
    /// Where acceptance begins.
    pub threshold: f64,
    /// Whether the score is at least that.
    pub accepted: bool,
}

/// The hash of a model folder's weights.
fn sha256(folder: &Path) -> Result<String> {
    let name = folder.to_string_lossy().into_owned();
    let offline = FetchOptions {
        offline: true,
        ..FetchOptions::default()
    };
    Ok(find_backbone(&name, &offline, &mut |_| {})?.sha256)
}

impl Verifier {
    /// Reads the folder of a verifier onto `device`, with its encoder.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Input`] naming the file for anything missing or damaged, for an encoder of another width,
    /// or one with other weights than it was trained on; as [`find_backbone`] for an encoder that is not in the folder.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::load_with(folder, device, &LoadVerifier::default())
    }

    /// [`Verifier::load`] with options.
    ///
    /// # Errors
    /// As [`Verifier::load`].
    pub fn load_with(folder: &Path, device: &Device, options: &LoadVerifier) -> Result<Self> {
        let path = folder.join(CONFIG);
        let config = Config::read(folder)?;
        let refuse = |what: String| Err(Error::input(&path, what));
        let own = folder.join(ENCODER);
        let (encoder_folder, found) = if config.encoder.name == ENCODER {
            let found = sha256(&own)?;
            (own, found)
        } else {
            let found = find_backbone(&config.encoder.name, &options.fetch, &mut |_| {})?;
            (found.folder, found.sha256)
        };
        if found != config.encoder.sha256 {
            return refuse(format!(
                "it was trained on the encoder {} with weights {}, and those in {} are {}; give it that encoder again, or train it anew",
                config.encoder.name,
                short(&config.encoder.sha256),
                encoder_folder.display(),
                short(&found)
            ));
        }
        let mut load = options.encoder;
        if let Some(bytes) = options.memory {
            load.token_budget = Some(token_budget(&encoder_folder, device, bytes)?);
        }
        let encoder = Encoder::load(&encoder_folder, device, load)?;
        if encoder.token_width() != config.width {
            return refuse(format!(
                "it reads token vectors {} wide, and the encoder in {} makes them {} wide",
                config.width,
                encoder_folder.display(),
                encoder.token_width()
            ));
        }
        let scorer = config.scorer(folder, device)?;
        Ok(Verifier {
            config,
            encoder,
            scorer,
        })
    }

    /// Writes the folder of a verifier, which must not exist. An encoder that has a name by which it is found again stays
    /// where it is; without one, as it was trained with the verifier, it is written beside it.
    ///
    /// # Errors
    /// As [`Encoder::save`]; [`Error::Io`] if a file cannot be written.
    pub fn save(
        folder: &Path,
        encoder: &Encoder,
        name: Option<&str>,
        scorer: &Learned,
        max_length: usize,
        training: serde_json::Value,
    ) -> Result<()> {
        // Complete or not there: made beside its place.
        let mut part = folder.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let failed = |e| Error::io("write", &part, e);
        match fs::remove_dir_all(&part) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => fs::create_dir_all(&part).map_err(failed)?,
        }
        let encoder = match name {
            None => {
                let own = part.join(ENCODER);
                encoder.save(&own)?;
                EncoderName {
                    name: ENCODER.into(),
                    sha256: sha256(&own)?,
                }
            }
            Some(name) => EncoderName {
                name: name.into(),
                sha256: sha256(encoder.folder())?,
            },
        };
        let config = Config {
            version: VERSION,
            verifier: scorer.kind().name().into(),
            width: scorer.width(),
            padded: scorer.is_padded(),
            max_length,
            encoder,
            calibration: None,
            training,
        };
        let weights = part.join(WEIGHTS);
        safetensors::serialize_to_file(scorer.tensors()?, None, &weights)
            .map_err(|e| Error::io("write", &weights, std::io::Error::other(e)))?;
        config.write(&part)?;
        fs::rename(&part, folder).map_err(|e| Error::io("write", folder, e))
    }

    /// What it is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The encoder whose token vectors it reads.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// What scores token vectors.
    pub fn scorer(&self) -> &Learned {
        &self.scorer
    }

    /// Encoder and scorer, for more training or for an index of token vectors.
    pub fn into_parts(self) -> (Encoder, Learned) {
        (self.encoder, self.scorer)
    }

    /// Scale and bias whose sigmoid makes a score the probability that a pair means the same; `None` if nothing taught it
    /// them, as binary cross-entropy does.
    ///
    /// # Errors
    /// What the device reports.
    pub fn probability(&self) -> Result<Option<[f32; 2]>> {
        // As the options of a training are written.
        let objective = self.config.training.get("objective");
        match objective.and_then(serde_json::Value::as_str) {
            Some("binary") => self.scorer.objective().map(Some),
            _ => Ok(None),
        }
    }

    /// The scores of pairs of texts, in their order; higher is more alike in meaning. A text is encoded once however many
    /// pairs it is in, 2,048 pairs at a time.
    ///
    /// # Errors
    /// [`Error::Text`] for a text of a pair that cannot be encoded, the first of pair `i` being text `2 i`; what the device
    /// reports.
    pub fn score<S: AsRef<str>>(&self, pairs: &[[S; 2]]) -> Result<Vec<f64>> {
        let mut scores = Vec::with_capacity(pairs.len());
        for (piece, pairs) in pairs.chunks(AT_ONCE).enumerate() {
            let (mut places, mut texts, mut sources) = (HashMap::new(), Vec::new(), Vec::new());
            let mut place = |text, at| {
                *places.entry(text).or_insert_with(|| {
                    texts.push(text);
                    sources.push(2 * AT_ONCE * piece + at);
                    texts.len() as u32 - 1
                })
            };
            let list = pairs
                .iter()
                .enumerate()
                .map(|(i, [a, b])| [place(a.as_ref(), 2 * i), place(b.as_ref(), 2 * i + 1)]);
            let list: Vec<[u32; 2]> = list.collect();
            let list = PairList::new(self.encoder.device(), list)?;
            let vectors = self.token_vectors(&texts);
            let vectors = vectors.map_err(|e| match e {
                Error::Text { index, message } => Error::text(sources[index], message),
                other => other,
            })?;
            let found = self.scorer.score(&vectors, &vectors, &list)?;
            scores.extend(found.into_iter().map(f64::from));
        }
        Ok(scores)
    }

    /// The token vectors of texts as it reads them.
    ///
    /// # Errors
    /// As [`Encoder::encode_tokens`].
    pub fn token_vectors(&self, texts: &[&str]) -> Result<TokenVectors> {
        TokenVectors::encode_within(
            &self.encoder,
            texts,
            TextKind::Plain,
            Some(self.config.max_length),
        )
    }

    /// Whether pairs of texts mean the same.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a verifier without a threshold; as [`Verifier::score`].
    pub fn judge<S: AsRef<str>>(&self, pairs: &[[S; 2]]) -> Result<Vec<Verdict>> {
        let threshold = self.threshold()?;
        let scores = self.score(pairs)?;
        Ok(scores
            .into_iter()
            .map(|score| Verdict {
                score,
                threshold,
                accepted: score >= threshold,
            })
            .collect())
    }

    /// Where acceptance begins.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a verifier without a threshold.
    pub fn threshold(&self) -> Result<f64> {
        let calibration = self.config.calibration.as_ref();
        let threshold = calibration.map(|calibration| calibration.threshold);
        threshold.ok_or_else(|| {
            Error::Invalid(
                "the verifier has no threshold; calibrate it on pairs whose meaning is known"
                    .into(),
            )
        })
    }

    /// Sets the threshold, here and in the folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn set_calibration(&mut self, folder: &Path, calibration: Calibration) -> Result<()> {
        self.config.calibration = Some(calibration);
        self.config.write(folder)
    }
}

/// The beginning of a hash.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

impl Config {
    /// Reads the file in the folder of a verifier.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Input`] naming it if it is damaged or of a later version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let what = "not the folder of a verifier; `train-verifier` makes one, with verifier.json in it";
                return Err(Error::input(folder, what));
            }
            other => other.map_err(|e| Error::io("read", &path, e))?,
        };
        let config: Config =
            serde_json::from_slice(&bytes).map_err(|e| Error::input(&path, e.to_string()))?;
        if config.version != VERSION {
            return Err(Error::input(
                &path,
                format!(
                    "its layout has version {}; this program reads {VERSION}",
                    config.version
                ),
            ));
        }
        Ok(config)
    }

    /// The scorer of the verifier in that folder alone, for token vectors of its encoder that are at hand.
    ///
    /// # Errors
    /// As [`Verifier::load`] of the scorer.
    pub fn scorer(&self, folder: &Path, device: &Device) -> Result<Learned> {
        let kind: Kind = (self.verifier.parse())
            .map_err(|e: Error| Error::input(folder.join(CONFIG), e.to_string()))?;
        let checkpoint = Checkpoint::open_file(folder.join(WEIGHTS))?;
        let scorer = Learned::load(kind, self.width, &checkpoint, device)?;
        Ok(scorer.with_padding(self.padded))
    }

    /// Writes it there, in one go.
    fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(CONFIG);
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Invalid(format!("a configuration that is not JSON: {e}")))?;
        text.push('\n');
        let part = folder.join(format!("{CONFIG}.part"));
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &path))
            .map_err(|e| Error::io("write", &path, e))
    }
}
