//! Modules, their functions, and what the compiler has to say.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_uint, c_void};

use super::LIMITS;
use super::codes::*;
use super::contexts::current;
use super::ffi::{Handle, List, Out, Text, enter, value_of};
use super::state::{Driver, Function, Module};
use super::streams::interaction;

/// `CUjit_option`: those with an effect.
mod option {
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG: u32 = 3;
    pub const INFO_LOG_BYTES: u32 = 4;
    pub const ERROR_LOG: u32 = 5;
    pub const ERROR_LOG_BYTES: u32 = 6;
    pub const TARGET: u32 = 9;
}

/// What the caller asked the compiler for, by option: where it stands in the list, and the value.
struct JitOptions<'a> {
    values: &'a List<*mut c_void>,
    given: BTreeMap<u32, (usize, *mut c_void)>,
}

impl<'a> JitOptions<'a> {
    fn read(
        count: c_uint,
        options: &List<c_uint>,
        values: &'a List<*mut c_void>,
    ) -> Outcome<JitOptions<'a>> {
        let mut given = BTreeMap::new();
        for i in 0..count as usize {
            let option = options.get(i)?;
            // Those of later drivers come to nothing here, as do those about optimisation and caches.
            given.insert(option, (i, values.get(i)?));
        }
        if let Some(&(_, target)) = given.get(&option::TARGET) {
            let (major, minor) = LIMITS.capability;
            if value_of(target) != (10 * major + minor) as usize {
                return fail(NO_BINARY_FOR_GPU, "a target other than this device");
            }
        }
        Ok(JitOptions { values, given })
    }

    /// Fills a log, and its size with the bytes that were filled.
    fn log(&self, buffer: u32, bytes: u32, text: &str) -> Outcome {
        let Some(&(at, size)) = self.given.get(&bytes) else {
            return Ok(());
        };
        let Some(&(_, buffer)) = self.given.get(&buffer) else {
            return Ok(());
        };
        let size = value_of(size);
        if size == 0 || buffer.is_null() {
            return Ok(());
        }
        Out::<c_char>::at(buffer).set_text(text, size)?;
        let filled = text.len().min(size - 1);
        self.values
            .put(at, std::ptr::without_provenance_mut(filled));
        Ok(())
    }

    /// The time that compiling took, in milliseconds, in place of the option's value.
    fn took(&self, milliseconds: f32) {
        if let Some(&(at, _)) = self.given.get(&option::WALL_TIME) {
            let bits = milliseconds.to_bits() as usize;
            self.values.put(at, std::ptr::without_provenance_mut(bits));
        }
    }
}

/// `.version 7.0` as 70, the driver's way to write it.
fn version_of(text: &str) -> i32 {
    let version = text.lines().find_map(|line| {
        let code = line.split("//").next().unwrap_or_default();
        let (major, minor) = code.split_once(".version")?.1.trim().split_once('.')?;
        Some(10 * major.parse::<i32>().ok()? + minor.parse::<i32>().ok()?)
    });
    version.unwrap_or(0)
}

fn load(driver: &mut Driver, to: &Out<Handle>, image: &Text, options: &JitOptions<'_>) -> Outcome {
    let context = current(driver)?;
    to.check()?;
    // Loading may have to wait for the device.
    driver.not_while_capturing(interaction())?;
    let image = image.bytes()?;
    // An ELF file or a container of such files.
    if image.starts_with(b"\x7fELF") || image.starts_with(&0xba55_ed50u32.to_le_bytes()) {
        return fail(NO_BINARY_FOR_GPU, "machine code; only PTX text is emulated");
    }
    let Ok(text) = str::from_utf8(&image) else {
        return fail(INVALID_IMAGE, "the image is not text");
    };
    let start = std::time::Instant::now();
    let parsed = crate::Module::parse(text);
    options.took(start.elapsed().as_secs_f32() * 1e3);
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(e) => {
            let log = format!(
                "ptxas application ptx input, line {}; error   : {}\nptxas fatal   : Ptx assembly aborted due to errors",
                e.line, e.message
            );
            options.log(option::ERROR_LOG, option::ERROR_LOG_BYTES, &log)?;
            return fail(INVALID_PTX, e.to_string());
        }
    };
    options.log(option::ERROR_LOG, option::ERROR_LOG_BYTES, "")?;
    let mut names: Vec<_> = parsed.entries().map(|e| e.name.as_str()).collect();
    names.sort_unstable();
    let info: String = names
        .iter()
        .map(|name| {
            format!("ptxas info    : Compiling entry function '{name}' for 'PTX emulator'\n")
        })
        .collect();
    options.log(option::INFO_LOG, option::INFO_LOG_BYTES, &info)?;
    let version = version_of(text);
    let handle = driver.handle();
    let module = Module {
        context,
        parsed,
        version,
        functions: BTreeMap::new(),
    };
    driver.modules.insert(handle, module);
    to.set(handle)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(module: Out<Handle>, image: Text) -> CUresult {
    enter("cuModuleLoadData", |driver| {
        let values = List::none();
        let options = JitOptions::read(0, &List::none(), &values)?;
        load(driver, &module, &image, &options)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    module: Out<Handle>,
    image: Text,
    count: c_uint,
    options: List<c_uint>,
    values: List<*mut c_void>,
) -> CUresult {
    enter("cuModuleLoadDataEx", |driver| {
        let options = JitOptions::read(count, &options, &values)?;
        load(driver, &module, &image, &options)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    enter("cuModuleUnload", |driver| {
        let context = current(driver)?;
        driver.not_while_capturing(interaction())?;
        if !driver.modules.contains_key(&module) {
            return fail(INVALID_HANDLE, "not a module, or an unloaded one");
        }
        // The code may still be running.
        driver.wait_for_context(context);
        driver.modules.remove(&module);
        driver.functions.retain(|_, f| f.module != module);
        driver.healthy(context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(
    function: Out<Handle>,
    module: Handle,
    name: Text,
) -> CUresult {
    enter("cuModuleGetFunction", |driver| {
        let context = current(driver)?;
        function.check()?;
        let name = name.lossy()?;
        let fresh = driver.handle();
        let Some(loaded) = driver.modules.get_mut(&module) else {
            return fail(INVALID_HANDLE, "not a module, or an unloaded one");
        };
        let Some(entry) = loaded.parsed.entry(&name).cloned() else {
            return fail(NOT_FOUND, format!("the module has no entry {name}"));
        };
        // One handle for one entry, however often it is asked for.
        let handle = *loaded.functions.entry(name).or_insert(fresh);
        let version = loaded.version;
        driver.functions.entry(handle).or_insert_with(|| Function {
            context,
            module,
            name: CString::new(entry.name.as_str()).unwrap_or_default(),
            version,
            dynamic: LIMITS.shared.saturating_sub(entry.static_shared),
            carveout: -1,
            entry,
        });
        function.set(handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunctionCount(count: Out<c_uint>, module: Handle) -> CUresult {
    enter("cuModuleGetFunctionCount", |driver| {
        current(driver)?;
        match driver.modules.get(&module) {
            Some(module) => count.set(module.parsed.entries().count() as c_uint),
            None => fail(INVALID_HANDLE, "not a module, or an unloaded one"),
        }
    })
}
