//! What was measured, as a table, as CSV and as JSON lines.

use std::fs;
use std::path::{Path, PathBuf};

use comfy_table::{Cell, CellAlignment, Table};
use nearmiss::device::{Ceilings, Cost, DeviceKind};
use nearmiss::{Error, Result};
use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::timing::{Method, Times};
use super::{Context, Prepared, machine};
use nearmiss::study::profile::Limits;

/// Whether a case was timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was.
    Ok,
    /// The device lacks it.
    Unavailable,
    /// It is wrong, or did not run.
    #[default]
    Failed,
}

/// One case. Times are seconds per call; columns are in the order of the CSV file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names say it; units are in them")]
pub struct Row {
    pub op: String,
    pub shape: String,
    pub status: Status,
    /// Why there are no times.
    pub note: String,
    pub checked_elements: Option<usize>,
    pub error_over_bound: Option<f64>,
    /// How the times in a row were taken: `graph` (of calls, replayed), `stream` (calls between two events), `clock`.
    pub method: Option<Method>,
    pub seconds_median: Option<f64>,
    pub seconds_min: Option<f64>,
    pub seconds_q1: Option<f64>,
    pub seconds_q3: Option<f64>,
    pub seconds_max: Option<f64>,
    /// Calls launched one behind the other.
    pub seconds_launched: Option<f64>,
    pub seconds_alone: Option<f64>,
    pub seconds_alone_p99: Option<f64>,
    pub samples: Option<usize>,
    pub calls_per_sample: Option<usize>,
    pub flop: Option<u64>,
    pub bytes: Option<u64>,
    pub gflop_per_s: Option<f64>,
    pub gb_per_s: Option<f64>,
    pub share_of_floor: Option<f64>,
    pub items_per_s: Option<f64>,
    pub item: Option<String>,
    pub input_sets: Option<usize>,
    pub input_bytes: Option<u64>,
    pub launches: Option<u64>,
    pub instructions: Option<u64>,
    pub warp_instructions: Option<u64>,
    pub matrix_multiply_adds: Option<u64>,
    pub global_bytes: Option<u64>,
    pub global_sectors: Option<u64>,
    pub shared_bytes: Option<u64>,
    pub shared_wavefronts: Option<u64>,
    #[serde(skip)]
    counts: Option<Counts>,
}

impl Row {
    /// A row without results.
    pub fn new(op: &str, shape: &str) -> Self {
        Row {
            op: op.into(),
            shape: shape.into(),
            ..Row::default()
        }
    }

    /// The device lacks it.
    pub fn unavailable(mut self, why: String) -> Self {
        self.status = Status::Unavailable;
        self.note = why;
        self
    }

    /// It is wrong, or did not run.
    pub fn failed(mut self, why: String) -> Self {
        self.status = Status::Failed;
        self.note = format!("FAILED: {why}");
        self
    }

    /// Its result was compared.
    pub fn checked(mut self, prepared: &Prepared) -> Self {
        self.checked_elements = Some(prepared.checked);
        self.error_over_bound = Some(prepared.worst);
        self.input_sets = Some(prepared.sets);
        self.input_bytes = Some(prepared.set_bytes);
        self
    }

    /// It was timed.
    pub fn timed(
        mut self,
        prepared: &Prepared,
        cost: Cost,
        times: Times,
        ceilings: Ceilings,
    ) -> Self {
        self.status = Status::Ok;
        self.seconds_median = Some(times.median);
        self.seconds_min = Some(times.min);
        self.seconds_q1 = Some(times.q1);
        self.seconds_q3 = Some(times.q3);
        self.seconds_max = Some(times.max);
        self.method = Some(times.method);
        self.seconds_launched = Some(times.launched);
        self.seconds_alone = Some(times.alone);
        self.seconds_alone_p99 = Some(times.alone_p99);
        self.samples = Some(times.samples);
        self.calls_per_sample = Some(times.calls);
        self.flop = Some(cost.flop);
        self.bytes = Some(cost.bytes);
        self.gflop_per_s = Some(cost.flop as f64 / times.median / 1e9);
        self.gb_per_s = Some(cost.bytes as f64 / times.median / 1e9);
        self.share_of_floor = Some(ceilings.floor(cost) / times.median);
        self.items_per_s = Some(prepared.items.0 / times.median);
        self.item = Some(prepared.items.1.into());
        self
    }

    /// The emulator counted one call.
    pub fn counted(mut self, cost: Cost, c: Counts) -> Self {
        self.status = Status::Ok;
        self.flop = Some(cost.flop);
        self.bytes = Some(cost.bytes);
        self.launches = Some(c.launches);
        self.instructions = Some(c.instructions);
        self.warp_instructions = Some(c.warp_instructions);
        self.matrix_multiply_adds = Some(c.matrix_multiply_adds);
        self.global_bytes = Some(c.global_bytes());
        self.global_sectors = Some(c.global_sectors);
        self.shared_bytes = Some(c.shared_bytes());
        self.shared_wavefronts = Some(c.shared_wavefronts);
        self.counts = Some(c);
        self
    }

    /// The row as one line of JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings")
    }
}

/// Everything of one run.
pub struct Record {
    /// One per case.
    pub rows: Vec<Row>,
    facts: Vec<(String, String)>,
    slug: String,
    date: String,
}

impl Record {
    /// Collects the facts of the machine.
    pub fn new(context: &Context, cache: u64, limits: &Limits) -> Self {
        let device = &context.device;
        let cpu = machine::cpu_model();
        let name = match device.kind() {
            DeviceKind::Cpu => format!("cpu {cpu}"),
            _ => device.name(),
        };
        let date = machine::today();
        let mut facts = vec![
            ("date", date.clone()),
            ("device", device.name()),
            ("cpu", format!("{cpu} ({})", machine::cpu_features())),
            ("threads", rayon::current_num_threads().to_string()),
            ("system", machine::system()),
            ("load before", machine::load()),
            (
                "crate",
                format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
            ),
            ("commit", machine::commit()),
            ("rustc", machine::rustc()),
            ("limits", limits.how.clone()),
            (
                "cold cache",
                if context.cold_bytes <= context.max_bytes {
                    format!(
                        "inputs rotate through {} MiB, three times a last-level cache of {} MiB",
                        context.cold_bytes >> 20,
                        cache >> 20
                    )
                } else {
                    format!(
                        "inputs rotate through {} MiB only; the last-level cache is {} MiB and may hold them",
                        context.max_bytes >> 20,
                        cache >> 20
                    )
                },
            ),
            ("scale", format!("{:?}", context.scale).to_lowercase()),
        ];
        if let Some(driver) = machine::nvidia_driver() {
            facts.push(("driver", driver));
        }
        if let Some(clocks) = machine::nvidia_clocks().filter(|_| device.kind() == DeviceKind::Cuda)
        {
            facts.push(("clocks before", clocks));
        }
        if let Some(folder) = &context.backbone {
            let name = folder.file_name().unwrap_or(folder.as_os_str());
            facts.push(("backbone", name.to_string_lossy().into_owned()));
        }
        Record {
            rows: Vec::new(),
            facts: facts.into_iter().map(|(k, v)| (k.into(), v)).collect(),
            slug: slug(&name),
            date,
        }
    }

    /// The record of another machine (which `gpu-check table` reads): its facts as it printed them, and its rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the facts lack a device or a date.
    #[allow(dead_code, reason = "only gpu-check reads records")]
    pub fn of(facts: &serde_json::Map<String, serde_json::Value>, rows: Vec<Row>) -> Result<Self> {
        let facts: Vec<(String, String)> = facts
            .iter()
            .filter_map(|(k, v)| Some((k.replace('_', " "), v.as_str()?.to_string())))
            .collect();
        let fact = |name: &str| {
            let found = facts.iter().find(|(k, _)| k == name);
            found.map(|(_, v)| v.clone()).ok_or_else(|| {
                Error::Invalid(format!(
                    "facts without `{name}`; are they those of a bench?"
                ))
            })
        };
        Ok(Record {
            rows,
            slug: slug(&fact("device")?),
            date: fact("date")?,
            facts,
        })
    }

    /// The date of the record, `YYYY-MM-DD`.
    #[allow(dead_code, reason = "only gpu-check asks")]
    pub fn date(&self) -> &str {
        &self.date
    }

    /// Facts, one a line.
    pub fn facts_text(&self) -> String {
        let lines = self.facts.iter().map(|(k, v)| format!("{k:>12}: {v}\n"));
        lines.collect()
    }

    /// Facts as one line of JSON.
    pub fn facts_json(&self) -> String {
        let facts = self.facts.iter();
        let map: serde_json::Map<String, serde_json::Value> = facts
            .map(|(k, v)| (k.replace(' ', "_"), v.clone().into()))
            .collect();
        serde_json::Value::from(map).to_string()
    }

    /// Cases that failed.
    pub fn failures(&self) -> usize {
        let failed = self.rows.iter().filter(|r| r.status == Status::Failed);
        failed.count()
    }

    /// The table that people read: of times, or of counts if there are any.
    pub fn table(&self) -> String {
        self.counts_table().unwrap_or_else(|| self.times_table())
    }

    fn times_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header([
            "operator",
            "shape",
            "median",
            "min",
            "spread",
            "launched",
            "alone",
            "GFLOP/s",
            "GB/s",
            "floor",
            "items/s",
            "error/bound",
        ]);
        for row in &self.rows {
            let number =
                |v: Option<f64>, digits| v.map_or(String::new(), |v| format!("{v:.digits$}"));
            let time = |v: Option<f64>| v.map_or(String::new(), duration);
            let mut cells = vec![row.op.clone(), row.shape.clone()];
            if row.status == Status::Ok {
                let spread = match (row.seconds_q1, row.seconds_q3, row.seconds_median) {
                    (Some(q1), Some(q3), Some(m)) => format!("{:.1} %", 100.0 * (q3 - q1) / m),
                    _ => String::new(),
                };
                cells.extend([
                    time(row.seconds_median),
                    time(row.seconds_min),
                    spread,
                    time(row.seconds_launched),
                    time(row.seconds_alone),
                    number(row.gflop_per_s, 1),
                    number(row.gb_per_s, 1),
                    row.share_of_floor
                        .map_or(String::new(), |v| format!("{:.0} %", 100.0 * v)),
                    row.items_per_s
                        .zip(row.item.as_ref())
                        .map_or(String::new(), |(v, item)| format!("{} {item}", grouped(v))),
                    number(row.error_over_bound, 3),
                ]);
            } else {
                cells.push(row.note.clone());
            }
            let aligned = cells.into_iter().enumerate().map(|(i, text)| {
                let numeric = i > 1 && row.status == Status::Ok;
                Cell::new(text).set_alignment(if numeric {
                    CellAlignment::Right
                } else {
                    CellAlignment::Left
                })
            });
            table.add_row(aligned.collect::<Vec<_>>());
        }
        format!(
            "{}\n\n\
             median, min: time of a call in a row of calls, on CUDA in a replayed graph of them where they can be recorded;\n\
             launched: the same, launched call by call; spread: quartiles' distance over the median; alone: one call on an\n\
             idle device, waited for; floor: shortest time that the measured limits allow, over the median (above\n\
             100 % where counted bytes came from a cache, or an operator multiplies faster than matmul); error/bound: largest of the sample checked.",
            table.trim_fmt()
        )
    }

    /// `None` if nothing was counted.
    fn counts_table(&self) -> Option<String> {
        if self.rows.iter().all(|row| row.counts.is_none()) {
            return None;
        }
        let mut table = Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header([
            "operator",
            "shape",
            "launches",
            "instructions",
            "lanes",
            "matrix FLOP",
            "global bytes",
            "sectors",
            "wavefronts",
        ]);
        for row in &self.rows {
            let (Some(c), Some(cost)) = (&row.counts, row.bytes.zip(row.flop)) else {
                table.add_row([&row.op, &row.shape, &row.note]);
                continue;
            };
            let times = |v: f64| format!("{v:.2}");
            let (bytes, flop) = (cost.0 as f64, cost.1 as f64);
            let cells = [
                row.op.clone(),
                row.shape.clone(),
                c.launches.to_string(),
                grouped(c.instructions as f64),
                format!(
                    "{:.1}",
                    c.instructions as f64 / (c.warp_instructions as f64).max(1.0)
                ),
                times(2.0 * c.matrix_multiply_adds as f64 / flop),
                times(c.global_bytes() as f64 / bytes),
                times(c.sector_ratio()),
                c.wavefront_ratio().map_or(String::new(), times),
            ];
            let aligned = cells.into_iter().enumerate().map(|(i, text)| {
                let alignment = [CellAlignment::Left, CellAlignment::Right][usize::from(i > 1)];
                Cell::new(text).set_alignment(alignment)
            });
            table.add_row(aligned.collect::<Vec<_>>());
        }
        Some(format!(
            "{}\n\n\
             Counted in one call, exact and the same on every machine. instructions: times threads; lanes: of 32, at work per\n\
             instruction; matrix FLOP: of the tensor cores, over the operator's; global bytes: that threads ask for, over the\n\
             least that the operator has to move; sectors: bytes of the 32-byte sectors touched, over those asked for\n\
             (below 1 where lanes share them); wavefronts: passes over the banks of shared memory per 128 bytes (1: no conflict).",
            table.trim_fmt()
        ))
    }

    /// Writes `<folder>/<device>/<date>.csv` and `.txt`; a second record of a day gets `-2`, and so on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<(PathBuf, PathBuf)> {
        let folder = folder.join(&self.slug);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        let stem = (1..)
            .map(|i| match i {
                1 => self.date.clone(),
                i => format!("{}-{i}", self.date),
            })
            .find(|stem| !folder.join(format!("{stem}.csv")).exists())
            .expect("a free name");
        let csv_path = folder.join(format!("{stem}.csv"));
        let mut csv = csv::Writer::from_writer(Vec::new());
        for row in &self.rows {
            csv.serialize(row)
                .map_err(|e| Error::Invalid(format!("{}: {e}", csv_path.display())))?;
        }
        let text = csv
            .into_inner()
            .map_err(|e| Error::io("write", &csv_path, e.into_error()))?;
        fs::write(&csv_path, text).map_err(|e| Error::io("write", &csv_path, e))?;
        let txt_path = folder.join(format!("{stem}.txt"));
        let text = format!("{}\n{}\n", self.facts_text(), self.table());
        fs::write(&txt_path, text).map_err(|e| Error::io("write", &txt_path, e))?;
        Ok((csv_path, txt_path))
    }
}

/// A name as part of a path: lower case, everything but letters and digits one hyphen, at most six words.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|w| !w.is_empty() && !matches!(*w, "R" | "TM"))
        .map(str::to_ascii_lowercase)
        .take(6)
        .collect();
    words.join("-")
}

/// A time with a unit that suits it.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.3} ms", s * 1e3),
        s => format!("{s:.3} s"),
    }
}

/// Three significant digits at least, thousands set apart.
fn grouped(v: f64) -> String {
    if v < 100.0 {
        return format!("{v:.1}");
    }
    let digits = format!("{v:.0}");
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(c);
    }
    text
}
