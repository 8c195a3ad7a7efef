//! How a training went: a line of JSON per step while it runs, a picture at its end.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use minijinja::{AutoEscape, Environment, Value, context};
use serde::{Deserialize, Deserializer, Serialize};

use crate::data::write_atomically;
use crate::error::{Error, Result};

/// The file of a training folder with a line per step.
pub const CURVE: &str = "curve.jsonl";

/// A step. A number that is not finite is null in the file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Which, from 1.
    pub step: u64,
    /// Mean loss of the batch.
    #[serde(deserialize_with = "number")]
    pub loss: f32,
    /// Length of the gradient before it is clipped; not finite where the step was skipped.
    #[serde(deserialize_with = "number")]
    pub gradient_norm: f32,
    /// Factor of the loss against underflow, 1 without one.
    pub scale: f32,
    /// Learning rate.
    pub learning_rate: f32,
    /// Tokens a second.
    #[serde(deserialize_with = "number")]
    pub tokens_per_second: f32,
}

fn number<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f32, D::Error> {
    Ok(Option::<f32>::deserialize(from)?.unwrap_or(f32::NAN))
}

/// A file that grows by a line per step.
pub struct Curve {
    path: PathBuf,
    file: File,
}

impl Curve {
    /// Goes on behind step `done`: the lines of later steps, which a training that was cut short had done since its last
    /// checkpoint, are cut off, and so is a last line that is not complete. Step 0 begins anew.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read or written.
    pub fn after(path: &Path, done: u64) -> Result<Self> {
        let failed = |e| Error::io("write", path, e);
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        let of_done = |line: &&[u8]| {
            let point = serde_json::from_slice::<Point>(line);
            line.ends_with(b"\n") && point.is_ok_and(|point| point.step <= done)
        };
        let lines = text.split_inclusive(|&byte| byte == b'\n');
        let kept: usize = lines.take_while(of_done).map(<[u8]>::len).sum();
        let mut options = File::options();
        let open = options.write(true).create(true).truncate(false);
        let mut file = open.open(path).map_err(failed)?;
        file.set_len(kept as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Curve {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Adds a step; the line is in the file when this returns.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn push(&mut self, point: &Point) -> Result<()> {
        let mut line = serde_json::to_string(point)
            .map_err(|e| Error::Invalid(format!("a step that is not JSON: {e}")))?;
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .map_err(|e| Error::io("write", &self.path, e))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The steps of a file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Input`] with the line for one that is no step.
pub fn read(path: &Path) -> Result<Vec<Point>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let lines = (1..).zip(text.lines());
    lines
        .map(|(number, line)| {
            let fault = |e| Error::input(path, format!("line {number}: not a step ({e})"));
            serde_json::from_str(line).map_err(fault)
        })
        .collect()
}

/// Pixels of a panel's inside.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 120.0;

/// Points of a line at most: more steps are drawn as the mean and the range of each stretch.
const MOST_POINTS: usize = 320;

/// A panel: its name, and what it shows of a step.
type Panel = (&'static str, fn(&Point) -> f32);

/// A self-contained SVG picture of the steps: loss, gradient norm, learning rate, tokens a second, and the loss scale
/// where there is one. What is not finite is left out.
pub fn svg(points: &[Point], title: &str) -> String {
    let mut panels: Vec<Panel> = vec![
        ("loss", |p| p.loss),
        ("gradient norm", |p| p.gradient_norm),
        ("learning rate", |p| p.learning_rate),
        ("tokens a second", |p| p.tokens_per_second),
    ];
    if points.iter().any(|p| p.scale != 1.0) {
        panels.push(("loss scale", |p| p.scale));
    }
    let steps = [
        points.first().map_or(0.0, |p| p.step as f64),
        points.last().map_or(1.0, |p| p.step as f64),
    ];
    let x = Axis::over(steps[0], steps[1], WIDTH);
    let panels: Vec<Value> = panels
        .iter()
        .map(|(name, of)| panel(name, points, &x, of))
        .collect();
    let columns: Vec<Value> = ticks(x.low, x.high, 8)
        .into_iter()
        .filter(|step| step.fract() == 0.0)
        .map(|step| context! { at => tenth(x.place(step)), label => step.to_string() })
        .collect();
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    let template = env.template_from_str(include_str!("curve.svg"));
    let rendered = template.and_then(|template| {
        template.render(context! {
            title, panels, columns,
            width => WIDTH, height => HEIGHT, each => HEIGHT + 46.0,
        })
    });
    rendered.expect("the template and its values are the program's own")
}

/// Writes [`svg`] to a file, which is complete or absent.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn save_svg(path: &Path, points: &[Point], title: &str) -> Result<()> {
    write_atomically(path, |file| file.write_all(svg(points, title).as_bytes()))
}

/// A panel's line, its range, and the labels of its axis.
fn panel(name: &str, points: &[Point], x: &Axis, of: &fn(&Point) -> f32) -> Value {
    let finite: Vec<(f64, f64)> = (points.iter())
        .map(|p| (p.step as f64, f64::from(of(p))))
        .filter(|(_, value)| value.is_finite())
        .collect();
    let values = || finite.iter().map(|&(_, value)| value);
    let [low, high] = [values().fold(0.0, f64::min), values().fold(0.0, f64::max)];
    let y = Axis::over(low, high, HEIGHT);
    let place = |out: &mut String, step: f64, value: f64| {
        let _ = write!(
            out,
            "{} {} ",
            tenth(x.place(step)),
            tenth(HEIGHT - y.place(value))
        );
    };
    let (mut line, mut above, mut below) = (String::new(), String::new(), Vec::new());
    let stretch = finite.len().div_ceil(MOST_POINTS).max(1);
    for part in finite.chunks(stretch) {
        let n = part.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| part.iter().map(of).sum::<f64>() / n;
        let [step, value] = [mean(|p| p.0), mean(|p| p.1)];
        let values = || part.iter().map(|p| p.1);
        place(&mut line, step, value);
        place(&mut above, step, values().fold(f64::NEG_INFINITY, f64::max));
        below.push((step, values().fold(f64::INFINITY, f64::min)));
    }
    // There along the largest values, back along the smallest.
    for (step, value) in below.into_iter().rev() {
        place(&mut above, step, value);
    }
    let rows: Vec<Value> = ticks(low, high, 4)
        .into_iter()
        .map(|value| context! { at => tenth(HEIGHT - y.place(value)), label => short(value) })
        .collect();
    let last = finite.last().map(|&(_, value)| short(value));
    context! {
        name, rows, last,
        line => line.trim_end(),
        range => if stretch > 1 { above.trim_end() } else { "" },
    }
}

/// Where values stand on an axis of some pixels.
struct Axis {
    low: f64,
    high: f64,
    pixels: f64,
}

impl Axis {
    fn over(low: f64, high: f64, pixels: f64) -> Self {
        // Of one value alone there is an axis too.
        let high = if high > low { high } else { low + 1.0 };
        Axis { low, high, pixels }
    }

    fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low) * self.pixels
    }
}

/// At most `most` round numbers from `low` to `high`.
fn ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let range = if high > low { high - low } else { 1.0 };
    let exponent = (range / most as f64).log10().floor();
    let decade = 10f64.powf(exponent);
    let fits = |step: &f64| range / step <= most as f64;
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade);
    let step = steps.into_iter().find(fits).unwrap_or(range);
    let first = (low / step).ceil() as i64;
    let numbers = (first..).map(|i| i as f64 * step);
    numbers
        .take_while(|&v| v <= low + range * (1.0 + 1e-6))
        .collect()
}

/// A length in pixels.
fn tenth(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

/// A number in about four digits.
fn short(value: f64) -> String {
    let trimmed = |digits: &str| match digits.contains('.') {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_string(),
        false => digits.to_string(),
    };
    match value.abs() {
        0.0 => "0".into(),
        size if (1e-3..1e6).contains(&size) => {
            let digits = (3.0 - size.log10().floor()).max(0.0) as usize;
            trimmed(&format!("{value:.digits$}"))
        }
        _ => {
            let text = format!("{value:.2e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trimmed(digits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64) -> Point {
        Point {
            step,
            loss: 3.0 / step as f32,
            gradient_norm: 0.5 + (step % 7) as f32,
            scale: 65536.0,
            learning_rate: 1e-4,
            tokens_per_second: 2200.0 + step as f32,
        }
    }

    #[test]
    fn a_resumed_curve_is_the_curve_of_an_unbroken_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CURVE);
        let mut whole = Curve::after(&path, 0).unwrap();
        assert_eq!(whole.path(), path);
        for step in 1..=30 {
            whole.push(&point(step)).unwrap();
            // It is there at once.
            assert_eq!(read(&path).unwrap().len() as u64, step);
        }
        let unbroken = fs::read(&path).unwrap();
        // A checkpoint at step 20, seven more steps, and half a line when it was killed.
        for cut in [1, 40] {
            let end = unbroken
                .split_inclusive(|&b| b == b'\n')
                .take(27)
                .map(<[u8]>::len)
                .sum::<usize>();
            fs::write(&path, &unbroken[..end + cut]).unwrap();
            let mut resumed = Curve::after(&path, 20).unwrap();
            assert_eq!(read(&path).unwrap().last().unwrap().step, 20);
            (21..=30).for_each(|step| resumed.push(&point(step)).unwrap());
            assert_eq!(fs::read(&path).unwrap(), unbroken);
        }
        // Nothing is left of another run.
        Curve::after(&path, 0).unwrap().push(&point(1)).unwrap();
        assert_eq!(read(&path).unwrap(), [point(1)]);
    }

    #[test]
    fn steps_that_were_skipped_have_no_norm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CURVE);
        let skipped = Point {
            gradient_norm: f32::INFINITY,
            ..point(1)
        };
        Curve::after(&path, 0).unwrap().push(&skipped).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"gradient_norm\":null"), "{text}");
        let read_back = read(&path).unwrap()[0];
        assert!(read_back.gradient_norm.is_nan() && read_back.loss == skipped.loss);
        fs::write(&path, format!("{text}{{\"step\": 2}}\n")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 2: not a step"), "{error}");
    }

    /// Numbers of an attribute of the first element that begins so.
    fn numbers(svg: &str, element: &str) -> Vec<f64> {
        let rest = &svg[svg.find(element).unwrap() + element.len()..];
        let list = &rest[..rest.find('"').unwrap()];
        list.split(' ').map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn a_picture_shows_every_panel() {
        let points: Vec<Point> = (1..=100).map(point).collect();
        let picture = svg(&points, "a <b> & c");
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
        assert!(!picture.contains("<b>") && picture.contains("a &lt;b&gt; &amp; c"));
        assert_eq!(picture.matches("<polyline").count(), 5);
        assert_eq!(picture.matches("<polygon").count(), 0);
        // The loss falls from the top of its panel, step 1, to 3/100 of its height.
        let line = numbers(&picture, "<polyline points=\"");
        assert_eq!(line.len(), 200);
        assert_eq!((line[0], line[1]), (0.0, 0.0));
        assert_eq!((line[198], line[199]), (640.0, 118.8));
        // Without a scaler its scale is no news; longer runs show a range beside the mean.
        let long: Vec<Point> = (1..=3375)
            .map(|s| Point {
                scale: 1.0,
                ..point(s)
            })
            .collect();
        let picture = svg(&long, "x");
        assert_eq!(picture.matches("<polyline").count(), 4);
        assert_eq!(picture.matches("<polygon").count(), 4);
        assert!(numbers(&picture, "<polyline points=\"").len() <= 2 * MOST_POINTS);
        let odd = Point {
            loss: f32::NAN,
            ..point(1)
        };
        for few in [&[][..], &[odd], &points[..1]] {
            let picture = svg(few, "x");
            assert!(
                !picture.contains("NaN") && !picture.contains("inf"),
                "{picture}"
            );
        }
    }

    #[test]
    fn labels_are_round() {
        assert_eq!(ticks(0.0, 3.0, 4), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(
            ticks(1.0, 3375.0, 8),
            [500.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0]
        );
        assert_eq!(ticks(0.0, 0.0, 4).first(), Some(&0.0));
        let short = |v: f64| super::short(v);
        assert_eq!(
            [
                short(0.0),
                short(2.5),
                short(1e-4),
                short(65536.0),
                short(0.1234567)
            ],
            ["0", "2.5", "1e-4", "65536", "0.1235"]
        );
    }
}
