//! A corpus of embeddings for exact cosine search.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, SafeTensors};

use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ops::cosine_topk::{Shard, cosine_topk};

use super::file::{self, IndexFile, map, read_f16};

/// What the layout of a saved index is called; a file with another one is refused.
const LAYOUT: &str = "nearmiss-vector-index-1";

/// Rows read, converted and appended at a time when an index is built from a file.
const CHUNK: usize = 8192;

/// Largest piece of device memory for rows; larger corpora are held in several.
const PIECE_BYTES: usize = 1 << 30;

/// One result of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Row number in the index, from 0 in the order of appending.
    pub row: u32,
    /// Cosine of the query and the stored (f16) row.
    pub score: f32,
}

/// Embeddings of a corpus, held once, in f16, on a device, and searched exactly by cosine.
///
/// Rows are numbered in the order in which they were appended. How they are laid out is this type's own business: it
/// is built, saved, mapped, appended to and searched through its methods alone.
///
/// ```
/// use nearmiss::{Device, index::VectorIndex};
/// let mut index = VectorIndex::new(&Device::cpu(), 8)?;
/// index.append(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// index.append(&[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// let hits = index.search(&[0.1, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1, None)?;
/// assert_eq!(hits[0][0].row, 1);
/// # Ok::<(), nearmiss::Error>(())
/// ```
#[derive(Debug)]
pub struct VectorIndex {
    device: Device,
    d: usize,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    /// `[capacity, d]`.
    rows: Buffer<f16>,
    /// `[capacity]`, 0 for a zero row.
    inverse_norms: Buffer<f32>,
    /// Rows in use.
    n: usize,
}

impl VectorIndex {
    /// An empty index for embeddings of width `d`, a multiple of 8.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width.
    pub fn new(device: &Device, d: usize) -> Result<Self> {
        if d == 0 || !d.is_multiple_of(8) {
            return Err(Error::shape(
                "vector index",
                "d",
                "a positive multiple of 8",
                d,
            ));
        }
        Ok(VectorIndex {
            device: device.clone(),
            d,
            pieces: Vec::new(),
        })
    }

    /// An empty index with memory for `n` rows, so that appending up to there never moves or splits anything.
    ///
    /// # Errors
    /// As [`VectorIndex::new`], and [`Error::OutOfMemory`].
    pub fn with_capacity(device: &Device, d: usize, n: usize) -> Result<Self> {
        let mut index = Self::new(device, d)?;
        let mut left = n;
        while left > 0 {
            let rows = left.min(index.piece_rows());
            index.add_piece(rows)?;
            left -= rows;
        }
        Ok(index)
    }

    /// Width of the embeddings.
    pub fn width(&self) -> usize {
        self.d
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|p| p.n).sum()
    }

    /// `true` if there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device that holds and searches it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of device memory that hold rows and norms: `2 d + 4` per row of capacity.
    pub fn bytes(&self) -> u64 {
        self.pieces
            .iter()
            .map(|p| p.rows.bytes() + p.inverse_norms.bytes())
            .sum()
    }

    /// Appends `rows` `[n, d]`, rounded to f16.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length that is no multiple of `d`; [`Error::Invalid`] naming the row for a number that
    /// is not finite in f16; [`Error::OutOfMemory`]. On an error nothing is appended.
    pub fn append(&mut self, rows: &[f32]) -> Result<()> {
        let halves: Vec<f16> = rows.iter().map(|&v| f16::from_f32(v)).collect();
        self.append_f16(&halves)
    }

    /// Appends `rows` `[n, d]` as they are.
    ///
    /// # Errors
    /// As [`VectorIndex::append`].
    pub fn append_f16(&mut self, rows: &[f16]) -> Result<()> {
        let d = self.d;
        if !rows.len().is_multiple_of(d) {
            return Err(Error::shape(
                "vector index",
                "rows",
                format!("rows of {d}"),
                rows.len(),
            ));
        }
        if let Some(at) = rows.iter().position(|v| !v.is_finite()) {
            return Err(Error::Invalid(format!(
                "row {} of the index: element {} is {} in f16; embeddings must be finite",
                self.len() + at / d,
                at % d,
                rows[at]
            )));
        }
        let mut wide = vec![0f32; d];
        let norms: Vec<f32> = rows
            .chunks_exact(d)
            .map(|row| {
                row.convert_to_f32_slice(&mut wide);
                let norm = wide
                    .iter()
                    .map(|&v| f64::from(v).powi(2))
                    .sum::<f64>()
                    .sqrt();
                if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 }
            })
            .collect();
        // All memory first, so that an error leaves the index as it was.
        let room: usize = self.pieces.iter().map(|p| p.capacity() - p.n).sum();
        let mut missing = norms.len().saturating_sub(room);
        while missing > 0 {
            let size = missing.max(self.len() / 2).min(self.piece_rows());
            self.add_piece(size)?;
            missing = missing.saturating_sub(size);
        }
        let mut done = 0;
        for piece in &mut self.pieces {
            let take = (piece.capacity() - piece.n).min(norms.len() - done);
            if take == 0 {
                continue;
            }
            piece
                .rows
                .write(piece.n * d, &rows[done * d..(done + take) * d])?;
            piece
                .inverse_norms
                .write(piece.n, &norms[done..done + take])?;
            piece.n += take;
            done += take;
        }
        Ok(())
    }

    /// The `k` rows with the largest cosine to each of the `queries` `[n_q, d]`, best first, ties to the lowest row.
    /// With `filter`, only rows it returns `true` for take part.
    ///
    /// # Errors
    /// [`Error::Shape`] for a wrong query length or `k` = 0, [`Error::Invalid`] naming a query that is not finite, or
    /// what the device reports.
    pub fn search(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&dyn Fn(usize) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        if let Some(at) = queries.iter().position(|v| !v.is_finite()) {
            return Err(Error::Invalid(format!(
                "query {}: element {} is {}; embeddings must be finite",
                at / self.d,
                at % self.d,
                queries[at]
            )));
        }
        let n = self.len();
        let filter = filter
            .map(|keep| {
                let words: Vec<u32> = (0..n.div_ceil(32))
                    .map(|w| {
                        (0..32)
                            .filter(|bit| w * 32 + bit < n && keep(w * 32 + bit))
                            .fold(0, |word, bit| word | 1 << bit)
                    })
                    .collect();
                self.device.upload(&words)
            })
            .transpose()?;
        let shards: Vec<Shard<'_>> = self
            .pieces
            .iter()
            .map(|p| Shard {
                rows: p.rows.as_slice(),
                inverse_norms: p.inverse_norms.as_slice(),
                n: p.n,
            })
            .collect();
        let queries = self.device.upload(queries)?;
        let found = cosine_topk(
            &queries,
            self.d,
            &shards,
            filter.as_ref().map(Buffer::as_slice),
            k,
        )?;
        let n_q = queries.len() / self.d;
        Ok((0..n_q)
            .map(|q| found.of(q).map(|(row, score)| Hit { row, score }).collect())
            .collect())
    }

    /// Stored row `row`, in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for a row that does not exist, or what the device reports.
    pub fn row(&self, row: usize) -> Result<Vec<f32>> {
        let mut local = row;
        for piece in &self.pieces {
            if local < piece.n {
                let halves = piece
                    .rows
                    .read_range(local * self.d..(local + 1) * self.d)?;
                return Ok(halves.to_f32_vec());
            }
            local -= piece.n;
        }
        Err(Error::shape(
            "vector index",
            "row",
            format!("below {}", self.len()),
            row,
        ))
    }

    /// Writes the index to `path` (a safetensors file) by way of a temporary file beside it, so that an interrupted
    /// run leaves either the old file or the new one.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, a full disk included.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut rows: Vec<f16> = Vec::with_capacity(self.len() * self.d);
        let mut norms: Vec<f32> = Vec::with_capacity(self.len());
        for piece in &self.pieces {
            rows.extend(piece.rows.read_range(0..piece.n * self.d)?);
            norms.extend(piece.inverse_norms.read_range(0..piece.n)?);
        }
        let n = norms.len();
        file::write(
            path,
            LAYOUT,
            &[
                (
                    "rows",
                    Dtype::F16,
                    vec![n, self.d],
                    bytemuck::cast_slice(&rows),
                ),
                (
                    "inverse_norms",
                    Dtype::F32,
                    vec![n],
                    bytemuck::cast_slice(&norms),
                ),
            ],
        )
    }

    /// Opens a saved index. On the CPU the file is mapped, not read: opening is instant and pages come in as a search
    /// touches them (so the file must not shrink meanwhile). Rows can be appended (they live in memory;
    /// [`VectorIndex::save`] writes all).
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Input`] if it is no complete index of this layout.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let advice = "build it again, or load it as plain safetensors";
        let file = IndexFile::open(path, LAYOUT, advice)?;
        let tensors = file.tensors()?;
        let rows = file.get(&tensors, "rows", Dtype::F16)?;
        let norms = file.get(&tensors, "inverse_norms", Dtype::F32)?;
        let &[n, d] = rows.shape() else {
            return Err(file.refuse(format!(
                "tensor rows: expected two dimensions, got {:?}",
                rows.shape()
            )));
        };
        if norms.shape() != [n] {
            return Err(file.refuse(
                "tensors rows and inverse_norms do not fit together; build it again".into(),
            ));
        }
        let mut index = Self::new(device, d)?;
        if n == 0 {
            return Ok(index);
        }
        let mapped = file
            .mapped(device, &rows, 0, n * d)
            .zip(file.mapped(device, &norms, 0, n));
        match mapped {
            Some((rows, inverse_norms)) => index.pieces.push(Piece {
                rows,
                inverse_norms,
                n,
            }),
            None => {
                let row_bytes = 2 * d;
                for chunk in rows.data().chunks(CHUNK * row_bytes) {
                    index.append_f16(&read_f16(chunk))?;
                }
            }
        }
        Ok(index)
    }

    /// Builds an index from a `.npy` file of shape `[n, d]`, f16 or f32.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Input`] for another shape or type or a file that ends early.
    pub fn from_npy(path: &Path, device: &Device) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let refuse = |what: String| Error::input(path, what);
        let npy = npyz::NpyFile::new(BufReader::new(file))
            .map_err(|e| refuse(format!("not a .npy file: {e}")))?;
        let &[n, d] = npy.shape() else {
            return Err(refuse(format!(
                "expected shape [n, d], got {:?}",
                npy.shape()
            )));
        };
        if npy.order() != npyz::Order::C {
            return Err(refuse(
                "stored column by column; save it with numpy.ascontiguousarray".into(),
            ));
        }
        let kind = npy.dtype().descr();
        let mut index = Self::with_capacity(device, d as usize, n as usize)?;
        let mut fill = |values: &mut dyn Iterator<Item = std::io::Result<f32>>| -> Result<()> {
            let mut chunk = Vec::with_capacity(CHUNK * d as usize);
            loop {
                chunk.clear();
                for value in (&mut *values).take(CHUNK * d as usize) {
                    chunk
                        .push(value.map_err(|e| refuse(format!("ends early or is damaged: {e}")))?);
                }
                if chunk.is_empty() {
                    return Ok(());
                }
                index.append(&chunk)?;
            }
        };
        if kind.contains("f2") {
            let values = npy.data::<f16>().map_err(|e| refuse(e.to_string()))?;
            fill(&mut values.map(|v| v.map(f16::to_f32)))?;
        } else if kind.contains("f4") {
            let values = npy.data::<f32>().map_err(|e| refuse(e.to_string()))?;
            fill(&mut values.into_iter())?;
        } else {
            return Err(refuse(format!(
                "its type is {kind}; convert it to float16 or float32"
            )));
        }
        Ok(index)
    }

    /// Builds an index from tensor `name` (`None`: the only one) of a safetensors file, shape `[n, d]`, f16 or f32.
    ///
    /// # Errors
    /// As [`VectorIndex::from_npy`], naming the tensor.
    pub fn from_safetensors(path: &Path, name: Option<&str>, device: &Device) -> Result<Self> {
        let map = map(path)?;
        let refuse = |what: String| Error::input(path, what);
        let tensors = SafeTensors::deserialize(&map)
            .map_err(|e| refuse(format!("not a complete safetensors file: {e}")))?;
        let names = tensors.names();
        let name = match (name, &names[..]) {
            (Some(name), _) => name,
            (None, [only]) => only,
            (None, _) => {
                return Err(refuse(format!(
                    "holds {} tensors ({}); name one",
                    names.len(),
                    names.join(", ")
                )));
            }
        };
        let tensor = tensors
            .tensor(name)
            .map_err(|e| refuse(format!("tensor {name}: {e}")))?;
        let &[n, d] = tensor.shape() else {
            return Err(refuse(format!(
                "tensor {name}: expected shape [n, d], got {:?}",
                tensor.shape()
            )));
        };
        let mut index = Self::with_capacity(device, d, n)?;
        match tensor.dtype() {
            Dtype::F16 => {
                for chunk in tensor.data().chunks(CHUNK * d * 2) {
                    index.append_f16(&read_f16(chunk))?;
                }
            }
            Dtype::F32 => {
                for chunk in tensor.data().chunks(CHUNK * d * 4) {
                    let values: Vec<f32> = chunk
                        .chunks_exact(4)
                        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                        .collect();
                    index.append(&values)?;
                }
            }
            other => {
                return Err(refuse(format!(
                    "tensor {name}: its type is {other:?}; convert it to F16 or F32"
                )));
            }
        }
        Ok(index)
    }

    /// Rows of one piece at most.
    fn piece_rows(&self) -> usize {
        PIECE_BYTES / (2 * self.d)
    }

    fn add_piece(&mut self, rows: usize) -> Result<()> {
        self.pieces.push(Piece {
            rows: self.device.alloc(rows * self.d)?,
            inverse_norms: self.device.alloc(rows)?,
            n: 0,
        });
        Ok(())
    }
}

impl Piece {
    fn capacity(&self) -> usize {
        self.inverse_norms.len()
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn rows(n: usize, d: usize) -> Vec<f32> {
        (0..n * d)
            .map(|i| ((i * 37 + i / d * 11) % 101) as f32 / 50.0 - 1.0)
            .collect()
    }

    #[test]
    fn appends_across_pieces_and_survives_a_round_trip() {
        let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
        let (all, path) = (rows(50, 16), dir.path().join("index.safetensors"));
        let mut index = VectorIndex::with_capacity(&cpu, 16, 10).unwrap();
        for part in all.chunks(7 * 16) {
            index.append(part).unwrap();
        }
        assert_eq!(index.len(), 50);
        let queries = &all[3 * 16..5 * 16];
        let hits = index.search(queries, 5, None).unwrap();
        assert_eq!((hits[0][0].row, hits[1][0].row), (3, 4));
        index.save(&path).unwrap();
        let mut opened = VectorIndex::open(&path, &cpu).unwrap();
        assert_eq!(opened.search(queries, 5, None).unwrap(), hits);
        opened.append(&all[..16]).unwrap();
        assert_eq!(opened.len(), 51);
        let again = opened.search(&all[..16], 2, None).unwrap();
        assert_eq!(
            (again[0][0].row, again[0][1].row),
            (0, 50),
            "equal rows, lowest first"
        );
        let odd = opened
            .search(&all[..16], 3, Some(&|row| row % 2 == 1))
            .unwrap();
        assert!(odd[0].iter().all(|hit| hit.row % 2 == 1));
        assert_eq!(opened.row(50).unwrap(), opened.row(0).unwrap());
    }

    #[test]
    fn reads_npy_and_safetensors() {
        let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
        let all = rows(9, 8);
        let npy = dir.path().join("x.npy");
        {
            use npyz::WriterBuilder;
            let file = File::create(&npy).unwrap();
            let mut writer = npyz::WriteOptions::new()
                .default_dtype()
                .shape(&[9, 8])
                .writer(file)
                .begin_nd()
                .unwrap();
            writer.extend(all.iter().copied()).unwrap();
            writer.finish().unwrap();
        }
        let index = VectorIndex::from_npy(&npy, &cpu).unwrap();
        assert_eq!((index.len(), index.width()), (9, 8));
        let st = dir.path().join("x.safetensors");
        let view = TensorView::new(Dtype::F32, vec![9, 8], bytemuck::cast_slice(&all)).unwrap();
        std::fs::write(&st, safetensors::serialize([("e", view)], None).unwrap()).unwrap();
        let other = VectorIndex::from_safetensors(&st, None, &cpu).unwrap();
        assert_eq!(
            other.search(&all[..8], 9, None).unwrap(),
            index.search(&all[..8], 9, None).unwrap()
        );
        // The same file is no index of ours, and a truncated one is nothing at all.
        let error = VectorIndex::open(&st, &cpu).unwrap_err().to_string();
        assert!(error.contains("layout `none`"), "{error}");
        let bytes = std::fs::read(&npy).unwrap();
        std::fs::write(&npy, &bytes[..bytes.len() - 5]).unwrap();
        let error = VectorIndex::from_npy(&npy, &cpu).unwrap_err().to_string();
        assert!(error.contains("ends early"), "{error}");
    }

    #[test]
    fn refuses_what_is_not_finite() {
        let mut index = VectorIndex::new(&Device::cpu(), 8).unwrap();
        let mut bad = vec![0f32; 16];
        bad[11] = 1e6;
        let error = index.append(&bad).unwrap_err().to_string();
        assert!(
            error.contains("row 1") && error.contains("element 3"),
            "{error}"
        );
        assert!(index.is_empty());
        assert!(
            index
                .search(&[f32::NAN; 8], 1, None)
                .unwrap_err()
                .to_string()
                .contains("query 0")
        );
        assert!(VectorIndex::new(&Device::cpu(), 12).is_err());
    }
}
