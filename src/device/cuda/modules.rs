//! Kernels: compiled when first called, launched with checked arguments.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cudarc::driver::result;
use cudarc::driver::sys;

use super::context::Context;
use super::diagnostics::{explain, first_complaint};
use super::{Cuda, lock};
use crate::device::call::{Language, Param, ParamKind};
use crate::device::template::{self, Variant};
use crate::device::{Arg, Call, Storage};
use crate::error::{Error, Result};

/// Shared memory, static and dynamic, that a kernel may use without asking, in bytes.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

/// Dynamic shared memory from which on a kernel lives by it, and wants as much of the cache as there is for it: how many
/// of its blocks fit a multiprocessor is counted on that.
const SHARED_MATTERS: u32 = 8 << 10;

/// Parameters that a kernel has at most.
const MOST_PARAMETERS: usize = 24;

/// One compiled variant of a kernel.
struct Compiled {
    context: Arc<Context>,
    module: sys::CUmodule,
    function: sys::CUfunction,
    /// Dynamic shared memory that a launch may ask for.
    shared_limit: AtomicU32,
}

// SAFETY: opaque handles of a context that may be used from any thread (see `Context`).
unsafe impl Send for Compiled {}
// SAFETY: as above; launching changes nothing of ours but the atomic limit.
unsafe impl Sync for Compiled {}

impl Drop for Compiled {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        // SAFETY: loaded by `Cuda::compile`, unloaded only here, and no launch is left.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// Where a variant is or will be: locked by whoever compiles it, while others go on with other variants.
type Place = Arc<Mutex<Option<Arc<Compiled>>>>;

/// All variants that were asked for, by entry.
#[derive(Default)]
pub(super) struct Kernels {
    places: Mutex<HashMap<&'static str, HashMap<Variant, Place>>>,
}

impl Kernels {
    fn place(&self, entry: &'static str, variant: &Variant) -> Place {
        let mut places = lock(&self.places);
        let variants = places.entry(entry).or_default();
        if let Some(place) = variants.get(variant) {
            return place.clone();
        }
        variants.entry(*variant).or_default().clone()
    }
}

impl Cuda {
    /// Entry and values of every variant asked for so far.
    pub fn compiled_variants(&self) -> Vec<(&'static str, String)> {
        let places = lock(&self.kernels.places);
        let names = places.iter().flat_map(|(&entry, variants)| {
            variants
                .keys()
                .map(move |variant| (entry, variant.to_string()))
        });
        names.collect()
    }

    /// Enqueues one run of a kernel, compiling the variant if it is new.
    pub fn launch(&self, call: &Call<'_>) -> Result<()> {
        let geometry = &call.geometry;
        if geometry.grid.contains(&0) {
            return Ok(());
        }
        self.check("making the context current", self.context.bind())?;
        let compiled = self.compiled(call)?;
        let mut values = [const { Packed([0; 8]) }; MOST_PARAMETERS];
        let mut n = 0;
        for argument in call.arguments(Language::Ptx) {
            let (param, arg) = argument?;
            values[n] = pack(call.kernel.entry, param, arg)?;
            n += 1;
        }
        self.admit_shared_memory(call, &compiled)?;
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_PARAMETERS];
        for (pointer, value) in pointers.iter_mut().zip(&mut values) {
            *pointer = std::ptr::from_mut(value).cast();
        }
        let [x, y, z] = geometry.grid;
        // SAFETY: the argument list has the number and kinds of values that the entry declares (`Call::arguments` holds
        // them to the kernel's parameters, `compile` those to the entry), each pointer reaches 8 readable bytes, and the
        // driver copies them before it returns. Addresses come from live pieces of this device; memory is freed only
        // after the stream is idle. That the kernel stays within the buffers is the launcher's promise: it checks the
        // shapes.
        let launched = unsafe {
            result::launch_kernel(
                compiled.function,
                (x, y, z),
                (geometry.threads, 1, 1),
                geometry.shared_bytes,
                self.stream(),
                &mut pointers[..n],
            )
        };
        self.check(
            format_args!(
                "{} [{}]: launching {geometry:?}",
                call.kernel.entry, call.variant
            ),
            launched,
        )
    }

    /// The kernel of a call, compiled now if it was not before.
    fn compiled(&self, call: &Call<'_>) -> Result<Arc<Compiled>> {
        let place = self.kernels.place(call.kernel.entry, &call.variant);
        let mut place = lock(&place);
        if let Some(compiled) = &*place {
            return Ok(compiled.clone());
        }
        self.refuse_in_capture("compiling a kernel")?;
        let start = Instant::now();
        let compiled = Arc::new(self.compile(call)?);
        *lock(&self.compiling) += start.elapsed();
        *place = Some(compiled.clone());
        Ok(compiled)
    }

    /// Asks for as much dynamic shared memory as the call wants, if that is more than was asked for before.
    fn admit_shared_memory(&self, call: &Call<'_>, compiled: &Compiled) -> Result<()> {
        use sys::CUfunction_attribute_enum as Attribute;
        let wanted = call.geometry.shared_bytes;
        if wanted <= compiled.shared_limit.load(Ordering::Relaxed) {
            return Ok(());
        }
        // SAFETY: the function is one of a module that is loaded as long as `compiled` exists.
        let raised = unsafe {
            result::function::set_function_attribute(
                compiled.function,
                Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                wanted as i32,
            )
        };
        self.check(
            format_args!(
                "{} [{}]: asking for {wanted} bytes of shared memory",
                call.kernel.entry, call.variant
            ),
            raised,
        )?;
        compiled.shared_limit.store(wanted, Ordering::Relaxed);
        Ok(())
    }

    /// How long the driver takes to make a module of a PTX text.
    pub fn compile_time(&self, ptx: &str) -> Result<Duration> {
        let image =
            CString::new(ptx).map_err(|_| self.error("a zero byte in a PTX text".into()))?;
        self.check("making the context current", self.context.bind())?;
        let start = Instant::now();
        // SAFETY: `image` is zero-terminated and outlives the call; the context is current.
        let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let taken = start.elapsed();
        let module = self.check("compiling", loaded)?;
        // SAFETY: loaded above, and nothing refers to it.
        let unloaded = unsafe { result::module::unload(module) };
        self.check("unloading a module", unloaded)?;
        Ok(taken)
    }

    /// Expands a variant and has the driver compile it.
    fn compile(&self, call: &Call<'_>) -> Result<Compiled> {
        let kernel = call.kernel;
        let source = kernel
            .ptx
            .ok_or_else(|| self.error(format!("{} exists for other devices only", kernel.entry)))?;
        let expanded = template::expand(source, &call.variant)?;
        let name = format!("{} [{}]", source.file, call.variant);
        let declared = kernel.params.iter().filter(|p| p.is_in(Language::Ptx));
        let declared: Vec<String> = declared.map(declaration).collect();
        let found = parameters(&expanded.text, kernel.entry);
        if found.as_ref() != Some(&declared) {
            return Err(self.error(format!(
                "{name}: {} is declared with {declared:?}, and has {found:?}",
                kernel.entry
            )));
        }
        let image = CString::new(expanded.text.as_str())
            .map_err(|_| self.error(format!("{name}: a zero byte in the text")))?;
        let entry = CString::new(kernel.entry)
            .map_err(|_| self.error(format!("{name}: a zero byte in the entry's name")))?;

        let mut log = vec![0u8; 8 << 10];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // An option's value is passed in place of the pointer.
        let mut values = [
            log.as_mut_ptr().cast::<c_void>(),
            std::ptr::without_provenance_mut(log.len() - 1),
        ];
        let mut module = std::ptr::null_mut();
        // SAFETY: `image` is zero-terminated, options and values are two each, the log has the size stated (its last
        // byte stays zero), and all of them outlive the call. The context is current.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if let Err(e) = loaded.result() {
            let log = CStr::from_bytes_until_nul(&log)
                .map(CStr::to_string_lossy)
                .unwrap_or_default();
            return Err(self.error(format!(
                "{name} does not compile: {}",
                first_complaint(&log, &expanded).unwrap_or_else(|| explain(e))
            )));
        }
        // SAFETY: the module has just been loaded.
        let function = match unsafe { result::module::get_function(module, entry) } {
            Ok(function) => function,
            Err(e) => {
                // SAFETY: loaded above, and nothing refers to it.
                let _ = unsafe { result::module::unload(module) };
                return self.check(format_args!("{name}: looking up {}", kernel.entry), Err(e));
            }
        };
        let compiled = Compiled {
            context: self.context.clone(),
            module,
            function,
            shared_limit: AtomicU32::new(0),
        };
        use sys::CUfunction_attribute_enum as Attribute;
        // SAFETY: the function is one of a module that is loaded as long as `compiled` exists.
        let fixed = unsafe {
            result::function::get_function_attribute(
                function,
                Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )
        };
        let fixed = self.check(format_args!("{name}: asking for its static memory"), fixed)?;
        let free = SHARED_BY_DEFAULT.saturating_sub(fixed as u32);
        compiled.shared_limit.store(free, Ordering::Relaxed);
        if call.geometry.shared_bytes >= SHARED_MATTERS {
            // SAFETY: as above.
            let preferred = unsafe {
                result::function::set_function_attribute(
                    function,
                    Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
                    100,
                )
            };
            self.check(
                format_args!("{name}: asking for its share of the cache"),
                preferred,
            )?;
        }
        lock(&self.texts).push((kernel.entry, expanded));
        Ok(compiled)
    }
}

/// An argument in the memory form in which the driver reads it: as many bytes as its kind has, at the front.
#[repr(C, align(8))]
struct Packed([u8; 8]);

fn pack(entry: &'static str, param: &'static Param, arg: Arg<'_>) -> Result<Packed> {
    let word = |[a, b, c, d]: [u8; 4]| Ok(Packed([a, b, c, d, 0, 0, 0, 0]));
    match arg {
        Arg::Buffer(binding) => {
            let Storage::Cuda(piece) = binding.storage else {
                unreachable!("a CUDA device's buffers are CUDA buffers")
            };
            if !binding.offset.is_multiple_of(16) {
                return Err(Error::shape(
                    entry,
                    param.name,
                    "a view that begins at a multiple of 16 bytes",
                    format!("one at {}", binding.offset),
                ));
            }
            let address = piece.at(binding.offset, binding.bytes as usize);
            Ok(Packed(address.to_ne_bytes()))
        }
        Arg::Absent | Arg::TooLarge(_) => Ok(Packed([0; 8])),
        Arg::U32(value) => word(value.to_ne_bytes()),
        Arg::F32(value) => word(value.to_ne_bytes()),
    }
}

/// How a PTX entry declares a parameter: its type and name.
fn declaration(param: &Param) -> String {
    let kind = match param.kind {
        ParamKind::Read | ParamKind::Write => ".u64",
        ParamKind::U32 => ".u32",
        ParamKind::F32 => ".f32",
    };
    format!("{kind} p_{}", param.name)
}

/// The parameters of `entry` as `.TYPE NAME`; `None` if the entry is missing.
fn parameters(ptx: &str, entry: &str) -> Option<Vec<String>> {
    let code: String = ptx
        .lines()
        .flat_map(|line| [line.split("//").next().unwrap_or_default(), " "])
        .collect();
    let list = code.split(".entry").skip(1).find_map(|declaration| {
        let (name, rest) = declaration.split_once('(')?;
        (name.trim() == entry).then(|| rest.split_once(')'))?
    })?;
    let words = |parameter: &str| {
        let words: Vec<&str> = parameter.split_whitespace().collect();
        words.join(" ").trim_start_matches(".param ").to_string()
    };
    Some(list.0.split(',').map(words).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "// .entry probe(\n.visible .entry other(.param .u64 p_a)\n{ ret; }\n.visible .entry probe(\n  \
        .param .u64 p_a, // one, two)\n  .param .u32 p_n,\n  .param .f32 p_eps\n)\n{\n  ret;\n}\n";

    #[test]
    fn parameter_lists_are_read() {
        let declared =
            [Param::read("a"), Param::u32("n"), Param::f32("eps")].map(|p| declaration(&p));
        assert_eq!(parameters(PTX, "probe").unwrap(), declared);
        assert_eq!(parameters(PTX, "other").unwrap(), declared[..1]);
        assert_eq!(parameters(PTX, "prob"), None);
        assert_ne!(
            parameters(&PTX.replace(".f32", ".v4"), "probe").unwrap(),
            declared
        );
    }

    #[test]
    fn arguments_are_packed_at_the_front() {
        const PARAM: &Param = &Param::u32("n");
        let packed = pack("probe", PARAM, Arg::U32(0x0102_0304)).unwrap();
        assert_eq!(packed.0[..4], 0x0102_0304u32.to_ne_bytes());
        let packed = pack("probe", PARAM, Arg::F32(1.5)).unwrap();
        assert_eq!(packed.0[..4], 1.5f32.to_ne_bytes());
        assert_eq!(pack("probe", PARAM, Arg::Absent).unwrap().0, [0; 8]);
    }
}
