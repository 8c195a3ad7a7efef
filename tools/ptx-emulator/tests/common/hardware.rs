//! A real GPU, if this machine has one: the same PTX runs there and must answer the same.

use std::ffi::{CString, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::{result, sys};

use super::{Arg, Shape, aloud, required};

/// The first device of the driver.
pub struct Hardware {
    pub name: String,
    context: sys::CUcontext,
    /// One kernel at a time: what goes wrong then belongs to it.
    busy: Mutex<()>,
}

// SAFETY: the context is a handle that the driver lets any thread use, once it has been made current there, which
// `Hardware::run` does first; it serialises its callers besides.
unsafe impl Send for Hardware {}
// SAFETY: as above.
unsafe impl Sync for Hardware {}

/// The GPU, or, said aloud once, why there is none to compare with. With `NEARMISS_REQUIRE=hardware` that is a failure.
pub fn hardware() -> Option<&'static Hardware> {
    static FOUND: OnceLock<Option<Hardware>> = OnceLock::new();
    let find = || match Hardware::find() {
        Ok(hardware) => {
            aloud(&format!("compared with {}", hardware.name));
            Some(hardware)
        }
        Err(why) => {
            aloud(&format!("skipped: the comparison with hardware ({why})"));
            None
        }
    };
    let found = FOUND.get_or_init(find).as_ref();
    assert!(
        found.is_some() || !required("hardware"),
        "NEARMISS_REQUIRE names hardware, but there is no NVIDIA GPU to compare with"
    );
    found
}

impl Hardware {
    fn find() -> Result<Hardware, String> {
        // SAFETY: loads and unloads the driver library, as every CUDA program does at its start.
        if !unsafe { sys::is_culib_present() } {
            return Err("no CUDA driver on this machine".into());
        }
        let open = || -> Result<Result<Hardware, String>, result::DriverError> {
            result::init()?;
            if result::device::get_count()? == 0 {
                return Ok(Err("the CUDA driver sees no device".into()));
            }
            let device = result::device::get(0)?;
            let name = result::device::get_name(device)?;
            if name.starts_with("PTX emulator") {
                return Ok(Err("the CUDA driver is the emulator itself".into()));
            }
            let major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
            // SAFETY: the driver has just given the device out.
            if unsafe { result::device::get_attribute(device, major) }? < 8 {
                return Ok(Err(format!("{name} is older than compute capability 8.0")));
            }
            // SAFETY: as above. The context is kept until the process ends.
            let context = unsafe { result::primary_ctx::retain(device) }?;
            Ok(Ok(Hardware {
                name,
                context,
                busy: Mutex::new(()),
            }))
        };
        open().map_err(|e| format!("the CUDA driver does not start: {e:?}"))?
    }

    /// Launches a kernel of `text`; the buffers afterwards, in the order of the arguments.
    ///
    /// # Panics
    /// If the driver refuses anything, or the kernel fails.
    pub fn run(&self, text: &str, entry: &str, shape: Shape, args: &[Arg]) -> Vec<Vec<u8>> {
        let _alone = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        self.launch(text, entry, shape, args)
            .unwrap_or_else(|e| panic!("{entry} on {}: {e:?}", self.name))
    }

    fn launch(
        &self,
        text: &str,
        entry: &str,
        shape: Shape,
        args: &[Arg],
    ) -> Result<Vec<Vec<u8>>, result::DriverError> {
        let image = CString::new(text).expect("PTX text has no zero bytes");
        let symbol = CString::new(entry).expect("nor has a name");
        // SAFETY: handles and addresses come from the driver and are used while they live; the parameters are as many
        // and as large as the kernel's, since the emulator, which checks that, has run it before; buffers are as large
        // as what is copied.
        unsafe {
            result::ctx::set_current(self.context)?;
            let module = result::module::load_data(image.as_ptr().cast())?;
            let function = result::module::get_function(module, symbol)?;
            let mut buffers = Vec::new();
            let mut values: Vec<[u8; 8]> = Vec::new();
            for arg in args {
                let mut value = [0; 8];
                match arg {
                    Arg::Data(_) | Arg::Empty(_) => {
                        let bytes = match arg {
                            Arg::Data(data) => data.len(),
                            Arg::Empty(bytes) => *bytes,
                            _ => unreachable!("one of the two"),
                        };
                        let address = result::malloc_sync(bytes.max(1))?;
                        match arg {
                            Arg::Data(data) => result::memcpy_htod_sync(address, data)?,
                            _ => result::memset_d8_sync(address, 0, bytes)?,
                        }
                        buffers.push((address, bytes));
                        value = address.to_le_bytes();
                    }
                    Arg::U32(v) => value[..4].copy_from_slice(&v.to_le_bytes()),
                    Arg::F32(v) => value[..4].copy_from_slice(&v.to_le_bytes()),
                    Arg::U64(v) => value = v.to_le_bytes(),
                }
                values.push(value);
            }
            let mut parameters: Vec<*mut c_void> =
                values.iter_mut().map(|v| v.as_mut_ptr().cast()).collect();
            let three = |[x, y, z]: [u32; 3]| (x, y, z);
            // Work of the context's default stream.
            let stream = std::ptr::null_mut();
            result::launch_kernel(
                function,
                three(shape.grid),
                three(shape.block),
                shape.shared,
                stream,
                &mut parameters,
            )?;
            result::stream::synchronize(stream)?;
            let mut contents = Vec::new();
            for (address, bytes) in buffers {
                let mut data = vec![0u8; bytes];
                result::memcpy_dtoh_sync(&mut data, address)?;
                result::free_sync(address)?;
                contents.push(data);
            }
            result::module::unload(module)?;
            Ok(contents)
        }
    }
}
