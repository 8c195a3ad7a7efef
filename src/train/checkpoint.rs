//! The state of a training as one file, so that a training that was cut short goes on as if it had not been.
//!
//! A safetensors file: the arrays (master weights and moments, f32) under their names, and beside them, in its metadata,
//! what a few numbers hold ([`State`]), whose training it is ([`Identity`]) and the version of this layout. It is written
//! under another name, brought to the disk and then renamed, so that at every moment one complete file is there: the
//! last one until the next is complete. Only one training may write into a folder, which a
//! [`FolderLock`](super::lock::FolderLock) holds.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sampler::Position;
use super::scale::LossScale;
use crate::device::Precision;
use crate::error::{Error, Result};

/// The file of a training folder that holds its state.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// The layout that is written.
const VERSION: u32 = 1;

/// Under which name the metadata hold everything that is no array.
const ENTRY: &str = "nearmiss_training";

/// What a training consists of besides its arrays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done: batches trained on, those included whose update was skipped.
    pub step: u64,
    /// Updates done: where the learning rate stands and what the moments count.
    pub updates: u64,
    /// The batch that comes next.
    pub sampler: Position,
    /// The loss scale.
    pub scale: LossScale,
    /// Most tokens of a chunk since the device ran out of memory; `None` if it did not. Sums go by chunks.
    pub chunk: Option<usize>,
    /// Most bytes that pairs scored at once may take since then, where pairs are scored.
    #[serde(default)]
    pub pairs: Option<usize>,
}

/// Which training a state belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// SHA-256 of the weights it started from.
    pub model: String,
    /// What its device computes in.
    pub precision: Precision,
    /// Everything else that its numbers depend on, as an object ([`Plan`](super::Plan)).
    pub plan: Value,
}

impl Identity {
    /// The training of a model on a device of this precision by a plan.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a plan that is not JSON.
    pub fn new(
        model: impl Into<String>,
        precision: Precision,
        plan: &impl Serialize,
    ) -> Result<Self> {
        let plan = serde_json::to_value(plan)
            .map_err(|e| Error::Invalid(format!("a plan that is not JSON: {e}")))?;
        Ok(Identity {
            model: model.into(),
            precision,
            plan,
        })
    }

    /// In which ways `self`, saved, is not `wanted`.
    fn differences(&self, wanted: &Identity) -> Vec<String> {
        let mut all = Vec::new();
        let mut compare = |name: &str, saved: &Value, wanted: &Value| {
            if saved != wanted {
                let [saved, wanted] = [saved, wanted].map(shown);
                all.push(format!("{name} is {saved} there and {wanted} here"));
            }
        };
        let model = |of: &Identity| Value::from(of.model.as_str());
        compare("the model", &model(self), &model(wanted));
        let precision = |of: &Identity| Value::from(of.precision.name());
        compare("the precision", &precision(self), &precision(wanted));
        match (&self.plan, &wanted.plan) {
            (Value::Object(saved), Value::Object(here)) => {
                for (name, value) in saved {
                    let other = here.get(name).unwrap_or(&Value::Null);
                    compare(&format!("`{name}`"), value, other);
                }
                for (name, value) in here.iter().filter(|(name, _)| !saved.contains_key(*name)) {
                    compare(&format!("`{name}`"), &Value::Null, value);
                }
            }
            (saved, here) => compare("the plan", saved, here),
        }
        all
    }
}

/// A value in a message: hashes and the like are cut.
fn shown(value: &Value) -> String {
    const MOST: usize = 24;
    let text = match value {
        Value::Null => return "absent".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// What the metadata hold.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    #[serde(flatten)]
    identity: Identity,
    state: State,
}

/// Writes a checkpoint. `arrays` are names and numbers of elements; `values` gives each when its turn comes, so that one
/// is in memory at a time.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written, [`Error::Invalid`] for a name given twice or an array of another length
/// than announced, and what `values` reports. The checkpoint that was there before is then still there.
pub fn write<'a>(
    path: &Path,
    identity: &Identity,
    state: &State,
    arrays: &[(&str, usize)],
    values: impl FnMut(usize) -> Result<Cow<'a, [f32]>>,
) -> Result<()> {
    replace(path, |file| {
        fill(path, file, identity, state, arrays, values)
    })
}

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::io("write", path, e)
}

/// Makes `fill` write a file beside `path` that takes its place once it is complete and on the disk.
fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = write_error(path);
    // Always the same name: what a kill leaves of it the next checkpoint writes over.
    let part = part(path);
    let work = || {
        let file = File::create(&part).map_err(&failed)?;
        let mut buffered = BufWriter::with_capacity(1 << 16, &file);
        fill(&mut buffered)?;
        buffered.flush().map_err(&failed)?;
        drop(buffered);
        file.sync_all().map_err(&failed)?;
        drop(file);
        fs::rename(&part, path).map_err(&failed)
    };
    let done = work();
    if done.is_err() {
        // Room for whatever else is to be written.
        let _ = fs::remove_file(&part);
    }
    #[cfg(unix)]
    if let (Ok(()), Some(folder)) = (&done, path.parent()) {
        // The new name reaches the disk too; where folders cannot be opened for that, it does so later.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    done
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes a checkpoint's bytes.
fn fill<'a>(
    path: &Path,
    file: &mut dyn Write,
    identity: &Identity,
    state: &State,
    arrays: &[(&str, usize)],
    mut values: impl FnMut(usize) -> Result<Cow<'a, [f32]>>,
) -> Result<()> {
    let invalid = |what: String| Error::Invalid(format!("cannot write a checkpoint: {what}"));
    let header = Header {
        version: VERSION,
        identity: identity.clone(),
        state: state.clone(),
    };
    let header = serde_json::to_string(&header).map_err(|e| invalid(e.to_string()))?;
    let mut end = 0;
    let mut infos: Vec<(String, TensorInfo)> = Vec::new();
    for &(name, elements) in arrays {
        if infos.iter().any(|(other, _)| other == name) {
            return Err(invalid(format!("two arrays are called {name}")));
        }
        let start = end;
        end += elements * size_of::<f32>();
        let info = TensorInfo {
            dtype: Dtype::F32,
            shape: vec![elements],
            data_offsets: (start, end),
        };
        infos.push((name.to_string(), info));
    }
    let notes = [(ENTRY.to_string(), header)];
    let metadata = Metadata::new(Some(notes.into()), infos).map_err(|e| invalid(e.to_string()))?;
    let mut head = serde_json::to_vec(&metadata).map_err(|e| invalid(e.to_string()))?;
    // The arrays begin at a multiple of eight bytes.
    head.resize(head.len().next_multiple_of(8), b' ');

    let failed = write_error(path);
    file.write_all(&(head.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(&head))
        .map_err(&failed)?;
    let mut bytes = Vec::new();
    for (i, &(name, elements)) in arrays.iter().enumerate() {
        let array = values(i)?;
        if array.len() != elements {
            return Err(invalid(format!(
                "array {name} was to have {elements} elements and has {}",
                array.len()
            )));
        }
        for piece in array.chunks(1 << 14) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes()));
            file.write_all(&bytes).map_err(&failed)?;
        }
    }
    Ok(())
}

/// A checkpoint that is open for reading.
pub struct Snapshot {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl Snapshot {
    /// Opens the checkpoint of this training; `None` if there is no file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Input`] if it is damaged, or of another training, with what differs.
    pub fn open(path: &Path, identity: &Identity) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        let refuse = |what: String| Error::input(path, what);
        // SAFETY: the map is only read. Checkpoints are replaced by renaming, never written in place; one that another
        // program truncates meanwhile would end the process, as with any program that maps its input.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
        let damaged = |e: String| {
            refuse(format!(
                "not a complete checkpoint ({e}); remove it to train from the start"
            ))
        };
        let (_, metadata) = SafeTensors::read_metadata(&map).map_err(|e| damaged(e.to_string()))?;
        let entry = metadata.metadata().as_ref().and_then(|m| m.get(ENTRY));
        let entry = entry.ok_or_else(|| damaged(format!("it has no entry `{ENTRY}`")))?;
        let version: Value = serde_json::from_str(entry).map_err(|e| damaged(e.to_string()))?;
        if version["version"] != VERSION {
            return Err(refuse(format!(
                "a checkpoint of version {}, this program reads {VERSION}; go on with the program that wrote it, or remove it to train from the start",
                version["version"]
            )));
        }
        let header: Header = serde_json::from_value(version).map_err(|e| damaged(e.to_string()))?;
        let differences = header.identity.differences(identity);
        if !differences.is_empty() {
            return Err(refuse(format!(
                "the checkpoint of another training: {}; train with what it was made with, into another folder, or remove it",
                differences.join("; ")
            )));
        }
        Ok(Some(Snapshot {
            path: path.to_path_buf(),
            map,
            header,
        }))
    }

    /// The state beside the arrays.
    pub fn state(&self) -> &State {
        &self.header.state
    }

    /// An array of so many elements, bit by bit as it was written.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of this name and length.
    pub fn array(&self, name: &str, elements: usize) -> Result<Vec<f32>> {
        let refuse = |what: String| {
            let what = format!("array {name}: {what}; remove the file to train from the start");
            Error::input(&self.path, what)
        };
        let tensors = SafeTensors::deserialize(&self.map).map_err(|e| refuse(e.to_string()))?;
        let tensor = tensors.tensor(name).map_err(|e| refuse(e.to_string()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [elements] {
            return Err(refuse(format!(
                "expected {elements} elements of F32, got {:?} of {:?}",
                tensor.shape(),
                tensor.dtype()
            )));
        }
        let words = tensor.data().chunks_exact(4);
        Ok(words
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Precision;
    use serde_json::json;

    fn identity() -> Identity {
        let plan = json!({"steps": 100, "learning_rate": 1e-4, "rows_sha256": "a".repeat(64)});
        Identity::new("5f3a", Precision::Mixed, &plan).unwrap()
    }

    fn state(step: u64) -> State {
        let mut scale = LossScale::new(Precision::Mixed);
        for i in 0..step {
            scale.update(i % 4 > 0);
        }
        State {
            step,
            updates: step - 1,
            sampler: Position { epoch: 2, batch: 7 },
            scale,
            chunk: step.is_multiple_of(2).then_some(4096),
            pairs: None,
        }
    }

    /// Values without a pattern, every kind of float among them.
    fn values(seed: u64, n: usize) -> Vec<f32> {
        let mut stream = crate::random::Stream::new(seed, &["values"], 0);
        (0..n)
            .map(|_| f32::from_bits(stream.bits() as u32))
            .collect()
    }

    const ARRAYS: [(&str, usize); 3] = [("master", 40_001), ("first", 3), ("empty", 0)];

    fn save(path: &Path, seed: u64, step: u64) -> Result<()> {
        write(path, &identity(), &state(step), &ARRAYS, |i| {
            Ok(values(seed + i as u64, ARRAYS[i].1).into())
        })
    }

    fn assert_saved(path: &Path, seed: u64, step: u64) {
        let saved = Snapshot::open(path, &identity()).unwrap().unwrap();
        assert_eq!(saved.state(), &state(step));
        for (i, (name, n)) in ARRAYS.into_iter().enumerate() {
            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let read = saved.array(name, n).unwrap();
            assert_eq!(bits(read), bits(values(seed + i as u64, n)), "{name}");
        }
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_bit_comes_back_and_the_last_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT);
        assert!(Snapshot::open(&path, &identity()).unwrap().is_none());
        save(&path, 1, 10).unwrap();
        assert_saved(&path, 1, 10);
        // What a kill left of a later one is no obstacle.
        fs::write(part(&path), b"half a checkpoint").unwrap();
        assert_saved(&path, 1, 10);
        save(&path, 9, 20).unwrap();
        assert_saved(&path, 9, 20);
        assert_eq!(files(dir.path()), [CHECKPOINT]);
        let saved = Snapshot::open(&path, &identity()).unwrap().unwrap();
        let error = saved.array("master", 40_000).unwrap_err().to_string();
        assert!(error.contains("expected 40000 elements"), "{error}");
        assert!(saved.array("second", 1).is_err());
    }

    #[test]
    fn another_training_is_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT);
        save(&path, 1, 10).unwrap();
        let refused = |change: &dyn Fn(&mut Identity), parts: &[&str]| {
            let mut other = identity();
            change(&mut other);
            let error = Snapshot::open(&path, &other).err().unwrap().to_string();
            assert!(!error.contains('\n'), "{error}");
            for part in parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        };
        refused(
            &|i| i.model = "77".into(),
            &["another training: the model is 5f3a there and 77 here; train"],
        );
        refused(
            &|i| i.precision = Precision::F32,
            &["the precision is mixed there and f32 here"],
        );
        refused(
            &|i| {
                i.plan["steps"] = 200.into();
                i.plan["rows_sha256"] = "b".repeat(64).into();
            },
            &[
                "`steps` is 100 there and 200 here",
                "`rows_sha256` is aaaaaaaaaaaaaaaaaaaaaaaa... there",
            ],
        );
        refused(
            &|i| {
                i.plan.as_object_mut().unwrap().remove("learning_rate");
                i.plan["own"] = true.into();
            },
            &[
                "`learning_rate` is 0.0001 there and absent here",
                "`own` is absent there and true here",
            ],
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT);
        save(&path, 1, 10).unwrap();
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8], part: &str| {
            let path = dir.path().join("damaged");
            fs::write(&path, bytes).unwrap();
            let error = Snapshot::open(&path, &identity())
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        };
        for length in [0, 1, 7, 100, whole.len() / 2, whole.len() - 1] {
            refused(&whole[..length], "not a complete checkpoint");
        }
        let text = String::from_utf8_lossy(&whole[..1000]).into_owned();
        let at = text.find("version\\\":1").unwrap() + "version\\\":".len();
        let mut newer = whole.clone();
        newer[at] = b'9';
        refused(&newer, "version 9, this program reads 1");
        let mut plain = whole.clone();
        let at = text.find(ENTRY).unwrap();
        plain[at] = b'N';
        refused(&plain, "no entry");
    }

    /// A disk with room for so many bytes.
    struct Disk<'a> {
        file: &'a mut dyn Write,
        room: usize,
    }

    impl Write for Disk<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 && !bytes.is_empty() {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= n;
            self.file.write(&bytes[..n])
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.file.flush()
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT);
        save(&path, 1, 10).unwrap();
        let size = fs::metadata(&path).unwrap().len() as usize;
        let attempt = |room: usize| {
            replace(&path, |file| {
                let mut disk = Disk { file, room };
                fill(&path, &mut disk, &identity(), &state(20), &ARRAYS, |i| {
                    Ok(values(5 + i as u64, ARRAYS[i].1).into())
                })
            })
        };
        for room in [0, 1, 8, 9, 500, size / 2, size - 1] {
            let error = attempt(room).unwrap_err();
            assert!(matches!(error, Error::Io { doing: "write", .. }), "{error}");
            assert_saved(&path, 1, 10);
            assert_eq!(files(dir.path()), [CHECKPOINT]);
        }
        attempt(size).unwrap();
        assert_saved(&path, 5, 20);
    }

    #[test]
    fn a_failure_half_way_leaves_the_old_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT);
        save(&path, 1, 10).unwrap();
        let attempt = |arrays: &[(&str, usize)], fails: usize| {
            let values = |i: usize| match i == fails {
                true => Err(Error::Invalid("the device is gone".into())),
                false => Ok(values(5, 3).into()),
            };
            let error = write(&path, &identity(), &state(20), arrays, values).unwrap_err();
            assert_saved(&path, 1, 10);
            assert_eq!(files(dir.path()), [CHECKPOINT]);
            error.to_string()
        };
        assert_eq!(attempt(&[("a", 3), ("b", 3)], 1), "the device is gone");
        assert!(attempt(&[("a", 3), ("b", 4)], 9).contains("array b was to have 4 elements"));
        assert!(attempt(&[("a", 3), ("a", 3)], 9).contains("two arrays are called a"));
    }

    const TO_KILL: &str = "NEARMISS_TEST_CHECKPOINT";

    /// What [`a_kill_leaves_a_whole_checkpoint`] runs in a process of its own; nothing otherwise.
    #[test]
    fn saves_until_it_is_killed() {
        if let Some(path) = std::env::var_os(TO_KILL) {
            for step in 1.. {
                save(Path::new(&path), step, step).unwrap();
                println!("\nsaved {step}");
            }
        }
    }

    #[test]
    fn a_kill_leaves_a_whole_checkpoint() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT);
        let test = "train::checkpoint::tests::saves_until_it_is_killed";
        for round in 0..6u64 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env(TO_KILL, &path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut steps =
                lines.filter_map(|line| line.unwrap().strip_prefix("saved ")?.parse().ok());
            let seen: u64 = steps.by_ref().nth(1).unwrap();
            // Somewhere within the next one.
            std::thread::sleep(std::time::Duration::from_micros(700 * round * round));
            child.kill().unwrap();
            child.wait().unwrap();
            let last = steps.last().unwrap_or(seen);
            let saved = Snapshot::open(&path, &identity())
                .unwrap()
                .unwrap()
                .state()
                .step;
            // The last one that was reported, or the one behind it.
            assert!(saved == last || saved == last + 1, "{saved} {last}");
            assert_saved(&path, saved, saved);
        }
    }
}
