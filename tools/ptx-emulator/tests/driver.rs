//! The driver library, called as a program calls it: by the names and binary interface of the driver API.
//!
//! Every test runs in a process of its own, with its own environment: the driver is one per process.

#![cfg(target_os = "linux")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;

use ptx_emulator::driver::STUBS;

type Handle = *mut c_void;

unsafe extern "C" {
    fn cuInit(flags: u32) -> u32;
    fn cuGetErrorName(code: u32, text: *mut *const c_char) -> u32;
    fn cuGetErrorString(code: u32, text: *mut *const c_char) -> u32;
    fn cuDriverGetVersion(version: *mut c_int) -> u32;
    fn cuDeviceGetCount(count: *mut c_int) -> u32;
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32;
    fn cuDeviceGetName(name: *mut c_char, bytes: c_int, device: c_int) -> u32;
    fn cuDeviceGetAttribute(value: *mut c_int, which: u32, device: c_int) -> u32;
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> u32;
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> u32;
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> u32;
    fn cuCtxSetCurrent(context: Handle) -> u32;
    fn cuCtxGetCurrent(context: *mut Handle) -> u32;
    fn cuCtxSynchronize() -> u32;
    fn cuMemAlloc_v2(to: *mut u64, bytes: usize) -> u32;
    fn cuMemAllocAsync(to: *mut u64, bytes: usize, stream: Handle) -> u32;
    fn cuMemFree_v2(address: u64) -> u32;
    fn cuMemFreeAsync(address: u64, stream: Handle) -> u32;
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32;
    fn cuMemAllocHost_v2(to: *mut Handle, bytes: usize) -> u32;
    fn cuMemFreeHost(pointer: Handle) -> u32;
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32;
    fn cuMemcpyDtoH_v2(to: Handle, from: u64, bytes: usize) -> u32;
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32;
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> u32;
    fn cuMemcpyDtoHAsync_v2(to: Handle, from: u64, bytes: usize, stream: Handle) -> u32;
    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> u32;
    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) -> u32;
    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) -> u32;
    fn cuModuleLoadData(module: *mut Handle, image: *const c_char) -> u32;
    fn cuModuleLoadDataEx(
        module: *mut Handle,
        image: *const c_char,
        count: u32,
        options: *mut u32,
        values: *mut Handle,
    ) -> u32;
    fn cuModuleUnload(module: Handle) -> u32;
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> u32;
    fn cuFuncGetAttribute(value: *mut c_int, which: u32, function: Handle) -> u32;
    fn cuFuncSetAttribute(function: Handle, which: u32, value: c_int) -> u32;
    fn cuFuncGetName(name: *mut *const c_char, function: Handle) -> u32;
    fn cuFuncGetParamInfo(
        function: Handle,
        index: usize,
        offset: *mut usize,
        bytes: *mut usize,
    ) -> u32;
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int,
        function: Handle,
        threads: c_int,
        shared: usize,
    ) -> u32;
    fn cuLaunchKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: Handle,
        parameters: *mut Handle,
        extra: *mut Handle,
    ) -> u32;
    fn cuStreamCreate(stream: *mut Handle, flags: u32) -> u32;
    fn cuStreamDestroy_v2(stream: Handle) -> u32;
    fn cuStreamSynchronize(stream: Handle) -> u32;
    fn cuStreamQuery(stream: Handle) -> u32;
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> u32;
    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) -> u32;
    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> u32;
    fn cuStreamIsCapturing(stream: Handle, status: *mut u32) -> u32;
    fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> u32;
    fn cuEventCreate(event: *mut Handle, flags: u32) -> u32;
    fn cuEventRecord(event: Handle, stream: Handle) -> u32;
    fn cuEventSynchronize(event: Handle) -> u32;
    fn cuEventQuery(event: Handle) -> u32;
    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> u32;
    fn cuEventDestroy_v2(event: Handle) -> u32;
    fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, flags: u64) -> u32;
    fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> u32;
    fn cuGraphLaunch(executable: Handle, stream: Handle) -> u32;
    fn cuGraphExecDestroy(executable: Handle) -> u32;
    fn cuGraphDestroy(graph: Handle) -> u32;
    fn cuMemPoolCreate(pool: *mut Handle, properties: *const c_void) -> u32;

    fn dlopen(file: *const c_char, flags: c_int) -> Handle;
    fn dlsym(library: Handle, name: *const c_char) -> Handle;
}

/// Calls a function of the driver.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: every pointer that these tests hand over is null or points to a live variable of the type that the
        // function declares; data of asynchronous copies lives until the stream was waited for, or the copy never runs.
        unsafe { $function($($argument),*) }
    };
}

/// Calls a function that has to succeed.
macro_rules! ok {
    ($function:ident($($argument:expr),* $(,)?)) => {
        assert_eq!(call!($function($($argument),*)), 0, stringify!($function))
    };
}

const INVALID_VALUE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const NOT_INITIALIZED: u32 = 3;
const INVALID_DEVICE: u32 = 101;
const NO_DEVICE: u32 = 100;
const INVALID_CONTEXT: u32 = 201;
const NO_BINARY_FOR_GPU: u32 = 209;
const INVALID_PTX: u32 = 218;
const INVALID_HANDLE: u32 = 400;
const ILLEGAL_STATE: u32 = 401;
const NOT_FOUND: u32 = 500;
const NOT_READY: u32 = 600;
const ILLEGAL_ADDRESS: u32 = 700;
const MISALIGNED_ADDRESS: u32 = 716;
const LAUNCH_FAILED: u32 = 719;
const NOT_SUPPORTED: u32 = 801;
const CAPTURE_UNSUPPORTED: u32 = 900;
const CAPTURE_INVALIDATED: u32 = 901;
const CAPTURE_UNMATCHED: u32 = 903;
const CAPTURE_UNJOINED: u32 = 904;
const CAPTURE_ISOLATION: u32 = 905;
const CAPTURE_IMPLICIT: u32 = 906;
const CAPTURED_EVENT: u32 = 907;

const BLOCKING: u32 = 0;
const NON_BLOCKING: u32 = 1;

/// `scale` multiplies `n` floats by a factor; `race` lets all threads of a block write one word; `tile` needs dynamic
/// shared memory: thread `i` leaves `i` there and copies it to the output.
const PTX: &str = "\
.version 7.0
.target sm_80
.address_size 64

.extern .shared .align 16 .b8 space[];

.visible .entry scale(
  .param .u64 data,
  .param .u32 n,
  .param .f32 factor
)
.maxntid 256, 1, 1
{
  .reg .pred %p<2>;
  .reg .b32 %r<6>;
  .reg .f32 %f<4>;
  .reg .b64 %a<3>;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.u32 %r4, %r1, %r2, %r3;
  ld.param.u32 %r5, [n];
  setp.ge.u32 %p1, %r4, %r5;
  @%p1 bra DONE;
  ld.param.u64 %a1, [data];
  mad.wide.u32 %a2, %r4, 4, %a1;
  ld.param.f32 %f1, [factor];
  ld.global.f32 %f2, [%a2];
  mul.f32 %f3, %f2, %f1;
  st.global.f32 [%a2], %f3;
DONE:
  ret;
}

.visible .entry race(
  .param .u64 data
)
{
  .reg .b32 %r<2>;
  .reg .b64 %a<2>;
  mov.u32 %r1, %tid.x;
  ld.param.u64 %a1, [data];
  st.global.u32 [%a1], %r1;
  ret;
}

.visible .entry tile(
  .param .u64 data
)
{
  .reg .b32 %r<5>;
  .reg .b64 %a<3>;
  mov.u32 %r1, %tid.x;
  mov.u32 %r2, space;
  mad.lo.u32 %r3, %r1, 4, %r2;
  st.shared.u32 [%r3], %r1;
  ld.shared.u32 %r4, [%r3];
  ld.param.u64 %a1, [data];
  mad.wide.u32 %a2, %r1, 4, %a1;
  st.global.u32 [%a2], %r4;
  ret;
}
";

const CHILD: &str = "PTX_DRIVER_TEST";

/// Exit status of a child that came to the end of its body.
const DONE: i32 = 77;

/// Runs `body` in a process of its own in this environment and returns what it wrote on standard error.
fn alone(test: &str, environment: &[(&str, &str)], body: fn()) -> String {
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        body();
        // Nothing but the body is to be run in this process, and the parent is to know that it was.
        std::process::exit(DONE);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PTX_EMULATOR_") {
            command.env_remove(name);
        }
    }
    let output = command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(DONE),
        "{test} {environment:?}\n{stderr}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    stderr
}

/// The lines that the emulator wrote.
fn lines(stderr: &str) -> Vec<&str> {
    stderr
        .lines()
        .filter(|l| l.starts_with("ptx-emulator: "))
        .collect()
}

/// Starts the driver and makes the primary context of device 0 current.
fn start() {
    ok!(cuInit(0));
    let mut context = null_mut();
    ok!(cuDevicePrimaryCtxRetain(&mut context, 0));
    ok!(cuCtxSetCurrent(context));
}

fn text(get: impl FnOnce(*mut *const c_char) -> u32) -> Option<String> {
    let mut text = std::ptr::null();
    if get(&mut text) != 0 {
        assert!(text.is_null());
        return None;
    }
    // SAFETY: the call succeeded, so this is a text of the driver's.
    Some(
        unsafe { CStr::from_ptr(text) }
            .to_str()
            .unwrap()
            .to_string(),
    )
}

fn name(code: u32) -> Option<String> {
    text(|t| call!(cuGetErrorName(code, t)))
}

fn words(code: u32) -> String {
    text(|t| call!(cuGetErrorString(code, t))).unwrap()
}

fn stream(flags: u32) -> Handle {
    let mut stream = null_mut();
    ok!(cuStreamCreate(&mut stream, flags));
    stream
}

fn event() -> Handle {
    let mut event = null_mut();
    ok!(cuEventCreate(&mut event, 0));
    event
}

fn module() -> Handle {
    let image = CString::new(PTX).unwrap();
    let mut module = null_mut();
    ok!(cuModuleLoadData(&mut module, image.as_ptr()));
    module
}

fn function_of(module: Handle, name: &str) -> Handle {
    let name = CString::new(name).unwrap();
    let mut function = null_mut();
    ok!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

fn function(name: &str) -> Handle {
    function_of(module(), name)
}

fn buffer(bytes: usize) -> u64 {
    let mut address = 0;
    ok!(cuMemAlloc_v2(&mut address, bytes));
    address
}

/// A buffer with these floats.
fn floats(values: &[f32]) -> u64 {
    let address = buffer(size_of_val(values));
    ok!(cuMemcpyHtoD_v2(
        address,
        values.as_ptr().cast(),
        size_of_val(values)
    ));
    address
}

/// The floats of a buffer, by a copy that waits.
fn read(address: u64, n: usize) -> Vec<f32> {
    let mut values = vec![0f32; n];
    ok!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, 4 * n));
    values
}

/// Launches `scale` on one block of 32 threads.
fn scale(function: Handle, data: u64, n: u32, factor: f32, stream: Handle) -> u32 {
    let (mut data, mut n, mut factor) = (data, n, factor);
    let mut parameters: [Handle; 3] = [
        (&raw mut data).cast(),
        (&raw mut n).cast(),
        (&raw mut factor).cast(),
    ];
    let parameters = parameters.as_mut_ptr();
    call!(cuLaunchKernel(
        function,
        1,
        1,
        1,
        32,
        1,
        1,
        0,
        stream,
        parameters,
        null_mut()
    ))
}

/// Launches a kernel that takes one buffer.
fn launch(
    function: Handle,
    grid: u32,
    block: u32,
    shared: u32,
    stream: Handle,
    mut data: u64,
) -> u32 {
    let mut parameters: [Handle; 1] = [(&raw mut data).cast()];
    let parameters = parameters.as_mut_ptr();
    call!(cuLaunchKernel(
        function,
        grid,
        1,
        1,
        block,
        1,
        1,
        shared,
        stream,
        parameters,
        null_mut()
    ))
}

#[test]
fn devices_are_described() {
    let environment = [
        ("PTX_EMULATOR_DEVICES", "2"),
        ("PTX_EMULATOR_MEMORY", "512M"),
        ("PTX_EMULATOR_MULTIPROCESSORS", "7"),
    ];
    let stderr = alone("devices_are_described", &environment, || {
        let mut n = 0;
        assert_eq!(call!(cuDeviceGetCount(&mut n)), NOT_INITIALIZED);
        assert_eq!(call!(cuInit(1)), INVALID_VALUE);
        ok!(cuInit(0));
        ok!(cuInit(0));
        ok!(cuDriverGetVersion(&mut n));
        assert_eq!(n, 12090);
        ok!(cuDeviceGetCount(&mut n));
        assert_eq!(n, 2);
        assert_eq!(call!(cuDeviceGetCount(null_mut())), INVALID_VALUE);
        assert_eq!(call!(cuDeviceGet(&mut n, 2)), INVALID_DEVICE);
        assert_eq!(call!(cuDeviceGet(&mut n, -1)), INVALID_DEVICE);
        let mut device = 0;
        ok!(cuDeviceGet(&mut device, 1));
        let mut name = [1u8; 32];
        ok!(cuDeviceGetName(name.as_mut_ptr().cast(), 32, device));
        assert_eq!(&name[..14], b"PTX emulator\0\x01");
        ok!(cuDeviceGetName(name.as_mut_ptr().cast(), 4, device));
        assert_eq!(&name[..4], b"PTX\0");
        let mut bytes = 0;
        ok!(cuDeviceTotalMem_v2(&mut bytes, device));
        assert_eq!(bytes, 512 << 20);
        // Threads per block, static shared memory, warp size, multiprocessors, capability, shared memory on request.
        let expected = [
            (1, 1024),
            (8, 49152),
            (10, 32),
            (16, 7),
            (75, 8),
            (76, 0),
            (97, 166_912),
        ];
        for (which, expected) in expected {
            let mut value = -1;
            ok!(cuDeviceGetAttribute(&mut value, which, device));
            assert_eq!(value, expected, "attribute {which}");
        }
        assert_eq!(
            call!(cuDeviceGetAttribute(&mut n, 100_000, device)),
            INVALID_VALUE
        );
    });
    assert_eq!(lines(&stderr), [""; 0]);
}

#[test]
fn codes_have_names_and_words() {
    alone("codes_have_names_and_words", &[], || {
        assert_eq!(name(0).unwrap(), "CUDA_SUCCESS");
        assert_eq!(name(2).unwrap(), "CUDA_ERROR_OUT_OF_MEMORY");
        assert_eq!(name(801).unwrap(), "CUDA_ERROR_NOT_SUPPORTED");
        assert_eq!(name(12345), None);
        assert_eq!(words(2), "out of memory");
        assert_eq!(words(700), "illegal address");
        let mut text = std::ptr::null();
        assert_eq!(call!(cuGetErrorString(12345, &mut text)), INVALID_VALUE);
    });
}

#[test]
fn wrong_settings_are_named() {
    let wrong = [
        ("PTX_EMULATOR_DEVICES", "many"),
        ("PTX_EMULATOR_MEMORY", "0"),
        ("PTX_EMULATOR_MEMORY", "8Q"),
        ("PTX_EMULATOR_MEMORY", "99999999999G"),
        ("PTX_EMULATOR_MULTIPROCESSORS", "0"),
        ("PTX_EMULATOR_STREAMS", "later"),
        ("PTX_EMULATOR_VERBOSE", "yes"),
        ("PTX_EMULATOR_SCHEDULE", "chaos"),
        ("PTX_EMULATOR_SEED", "x"),
        ("PTX_EMULATOR_TRACE", "scale"),
        ("PTX_EMULATOR_SHEDULE", "lock-step"),
    ];
    for (variable, value) in wrong {
        let stderr = alone("wrong_settings_are_named", &[(variable, value)], || {
            assert_eq!(call!(cuInit(0)), INVALID_VALUE);
            assert!(words(INVALID_VALUE).contains("PTX_EMULATOR_"));
            assert_eq!(call!(cuCtxSynchronize()), NOT_INITIALIZED);
        });
        let [line] = lines(&stderr)[..] else {
            panic!("{variable}={value}: {stderr}");
        };
        assert!(line.contains(variable), "{line}");
    }
}

#[test]
fn a_machine_may_have_no_device() {
    alone(
        "a_machine_may_have_no_device",
        &[("PTX_EMULATOR_DEVICES", "0")],
        || {
            assert_eq!(call!(cuInit(0)), NO_DEVICE);
        },
    );
}

#[test]
fn contexts_are_current_per_thread() {
    alone("contexts_are_current_per_thread", &[], || {
        ok!(cuInit(0));
        let mut address = 0;
        assert_eq!(call!(cuMemAlloc_v2(&mut address, 4)), INVALID_CONTEXT);
        start();
        ok!(cuMemAlloc_v2(&mut address, 4));
        std::thread::spawn(|| {
            let mut current = 1 as Handle;
            ok!(cuCtxGetCurrent(&mut current));
            assert!(current.is_null());
            assert_eq!(call!(cuCtxSynchronize()), INVALID_CONTEXT);
        })
        .join()
        .unwrap();
        // What belonged to the context goes with its last user.
        ok!(cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(call!(cuDevicePrimaryCtxRelease_v2(0)), INVALID_CONTEXT);
        start();
        assert_eq!(call!(cuMemFree_v2(address)), INVALID_VALUE);
    });
}

#[test]
fn memory_is_bounded_and_keeps_its_bytes() {
    let environment = [("PTX_EMULATOR_MEMORY", "1M")];
    alone(
        "memory_is_bounded_and_keeps_its_bytes",
        &environment,
        || {
            start();
            let mut address = 0;
            assert_eq!(call!(cuMemAlloc_v2(&mut address, 0)), INVALID_VALUE);
            assert_eq!(
                call!(cuMemAlloc_v2(&mut address, (1 << 20) + 1)),
                OUT_OF_MEMORY
            );
            let a = buffer(1000);
            let b = buffer(1000);
            let (mut free, mut total) = (0, 0);
            ok!(cuMemGetInfo_v2(&mut free, &mut total));
            assert!(
                total == 1 << 20 && free <= total - 2000,
                "{free} of {total}"
            );

            let data: Vec<u8> = (0..=249).collect();
            ok!(cuMemcpyHtoD_v2(a + 5, data.as_ptr().cast(), 250));
            ok!(cuMemcpyDtoD_v2(b, a + 15, 240));
            ok!(cuMemsetD8_v2(b + 1, 0xaa, 3));
            ok!(cuMemsetD16_v2(b + 10, 0xbbcc, 2));
            let mut back = [0u8; 16];
            ok!(cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), b, 16));
            let expected = [
                10, 0xaa, 0xaa, 0xaa, 14, 15, 16, 17, 18, 19, 0xcc, 0xbb, 0xcc, 0xbb, 24, 25,
            ];
            assert_eq!(back, expected);

            let to = back.as_mut_ptr().cast::<c_void>();
            assert_eq!(call!(cuMemcpyDtoH_v2(to, b + 990, 11)), INVALID_VALUE);
            assert_eq!(call!(cuMemcpyHtoD_v2(12, to, 1)), INVALID_VALUE);
            assert_eq!(
                call!(cuMemcpyHtoD_v2(a, std::ptr::null(), 1)),
                INVALID_VALUE
            );
            ok!(cuMemcpyHtoD_v2(a, std::ptr::null(), 0));
            assert_eq!(call!(cuMemsetD16_v2(a + 1, 0, 1)), INVALID_VALUE);
            assert_eq!(call!(cuMemFree_v2(a + 5)), INVALID_VALUE);
            ok!(cuMemFree_v2(a));
            ok!(cuMemFree_v2(0));
            assert_eq!(call!(cuMemFree_v2(a)), INVALID_VALUE);

            // In stream order, and page-locked memory of the host.
            let stream = stream(NON_BLOCKING);
            let mut ordered = 0;
            ok!(cuMemAllocAsync(&mut ordered, 16, stream));
            let mut host = null_mut();
            ok!(cuMemAllocHost_v2(&mut host, 16));
            ok!(cuMemsetD32Async(ordered, 0x0403_0201, 4, stream));
            ok!(cuMemcpyDtoHAsync_v2(host, ordered, 16, stream));
            ok!(cuMemFreeAsync(ordered, stream));
            ok!(cuStreamSynchronize(stream));
            // SAFETY: the driver gave 16 bytes, and nothing is on its way to them any more.
            let bytes = unsafe { std::slice::from_raw_parts(host.cast::<u8>(), 16) };
            assert_eq!(bytes, [1, 2, 3, 4].repeat(4));
            ok!(cuMemFreeHost(host));
            assert_eq!(call!(cuMemFreeHost(host)), INVALID_VALUE);
            assert_eq!(call!(cuMemcpyDtoH_v2(to, ordered, 16)), INVALID_VALUE);
        },
    );
}

#[test]
fn the_compiler_log_names_the_line() {
    alone("the_compiler_log_names_the_line", &[], || {
        start();
        let broken = PTX.replace("mul.f32 %f3, %f2, %f1;", "mul.f32 %f3, %f2, %f9;");
        let line = 1 + PTX.lines().position(|l| l.contains("mul.f32")).unwrap();
        let image = CString::new(broken).unwrap();
        let mut log = [0x55u8; 400];
        let mut options = [5, 6]; // the log, its bytes
        let size = std::ptr::without_provenance_mut::<c_void>(log.len() - 1);
        let mut values = [log.as_mut_ptr().cast::<c_void>(), size];
        let mut module = null_mut();
        let mut load = |image: &CString, options: &mut [u32], values: &mut [Handle]| {
            let count = options.len() as u32;
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            call!(cuModuleLoadDataEx(
                &mut module,
                image.as_ptr(),
                count,
                options,
                values
            ))
        };
        assert_eq!(load(&image, &mut options, &mut values), INVALID_PTX);
        let text = CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
        let start = format!("ptxas application ptx input, line {line}; error   : ");
        assert!(text.starts_with(&start) && text.contains("%f9"), "{text}");
        assert_eq!(values[1].addr(), text.len());
        assert_eq!(log[399], 0x55);
        // A small log is cut.
        values[1] = std::ptr::without_provenance_mut(6);
        assert_eq!(load(&image, &mut options, &mut values), INVALID_PTX);
        assert_eq!(&log[..7], b"ptxas\0a".as_slice());
        assert_eq!(values[1].addr(), 5);
        // No log.
        assert_eq!(load(&image, &mut [], &mut []), INVALID_PTX);

        let machine_code = CString::new("\x7fELF").unwrap();
        assert_eq!(load(&machine_code, &mut [], &mut []), NO_BINARY_FOR_GPU);
        let newer = CString::new(PTX.replace("sm_80", "sm_90")).unwrap();
        assert_eq!(load(&newer, &mut [], &mut []), INVALID_PTX);
        assert_eq!(
            call!(cuModuleLoadData(&mut module, std::ptr::null())),
            INVALID_VALUE
        );
    });
}

#[test]
fn functions_have_attributes() {
    alone("functions_have_attributes", &[], || {
        start();
        let module = module();
        let (scale, tile) = (function_of(module, "scale"), function_of(module, "tile"));
        assert_eq!(function_of(module, "scale"), scale);
        let mut missing = null_mut();
        let name = c"missing".as_ptr();
        assert_eq!(
            call!(cuModuleGetFunction(&mut missing, module, name)),
            NOT_FOUND
        );
        assert_eq!(text(|t| call!(cuFuncGetName(t, tile))).unwrap(), "tile");

        let attribute = |which, function| {
            let mut value = -1;
            ok!(cuFuncGetAttribute(&mut value, which, function));
            value
        };
        assert_eq!(attribute(0, scale), 256);
        assert_eq!(attribute(0, tile), 1024);
        assert_eq!(attribute(1, tile), 0);
        assert_eq!(attribute(5, tile), 70);
        assert_eq!(attribute(6, tile), 80);
        assert_eq!(attribute(8, tile), 49152);
        ok!(cuFuncSetAttribute(tile, 8, 163 << 10));
        assert_eq!(attribute(8, tile), 163 << 10);
        assert_eq!(
            call!(cuFuncSetAttribute(tile, 8, (163 << 10) + 1)),
            INVALID_VALUE
        );
        assert_eq!(call!(cuFuncSetAttribute(tile, 8, -1)), INVALID_VALUE);

        let (mut offset, mut bytes) = (0, 0);
        let expected = [(0, 8), (8, 4), (12, 4)];
        for (i, expected) in expected.into_iter().enumerate() {
            ok!(cuFuncGetParamInfo(scale, i, &mut offset, &mut bytes));
            assert_eq!((offset, bytes), expected);
        }
        assert_eq!(
            call!(cuFuncGetParamInfo(scale, 3, &mut offset, &mut bytes)),
            INVALID_VALUE
        );

        let blocks = |function, threads, shared| {
            let mut n = -1;
            ok!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut n, function, threads, shared
            ));
            n
        };
        assert_eq!(blocks(scale, 256, 0), 2048 / 256);
        assert_eq!(blocks(scale, 257, 0), 0);
        assert_eq!(blocks(tile, 1, 0), 32);
        assert_eq!(blocks(tile, 33, 0), 32); // two warps of 64
        // 1 KiB of each block's shared memory is the driver's.
        assert_eq!(blocks(tile, 128, 40 << 10), 4);
        assert_eq!(blocks(tile, 128, 163 << 10), 1);

        ok!(cuModuleUnload(module));
        assert_eq!(call!(cuFuncSetAttribute(tile, 8, 0)), INVALID_HANDLE);
        assert_eq!(call!(cuModuleUnload(module)), INVALID_HANDLE);
    });
}

#[test]
fn kernels_run() {
    alone("kernels_run", &[], || {
        start();
        let values: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let data = floats(&values);
        assert_eq!(scale(function("scale"), data, 31, 2.5, null_mut()), 0);
        let scaled = read(data, 32);
        for i in 0..31 {
            assert_eq!(scaled[i], 2.5 * values[i]);
        }
        assert_eq!(scaled[31], 31.0); // beyond n
    });
}

#[test]
fn malformed_launches_are_refused_and_named() {
    let stderr = alone("malformed_launches_are_refused_and_named", &[], || {
        start();
        let module = module();
        let (scale, tile) = (function_of(module, "scale"), function_of(module, "tile"));
        let data = buffer(4 * 1024);
        let stream = stream(NON_BLOCKING);
        let refused = |grid, block, shared| {
            assert_eq!(
                launch(tile, grid, block, shared, stream, data),
                INVALID_VALUE
            );
        };
        refused(0, 32, 4096);
        refused(1, 0, 4096);
        refused(1, 1025, 4096);
        refused(1 << 31, 32, 4096);
        refused(1, 32, (48 << 10) + 1);
        let none = null_mut();
        assert_eq!(launch(scale, 1, 257, 0, stream, data), INVALID_VALUE);
        let grid_y = call!(cuLaunchKernel(
            tile,
            1,
            1 << 16,
            1,
            32,
            1,
            1,
            128,
            stream,
            none,
            none
        ));
        assert_eq!(grid_y, INVALID_VALUE);
        let no_parameters = call!(cuLaunchKernel(
            tile, 1, 1, 1, 32, 1, 1, 128, stream, none, none
        ));
        assert_eq!(no_parameters, INVALID_VALUE);
        assert_eq!(
            launch(tile, 1, 32, 128, data as Handle, data),
            INVALID_HANDLE
        );
        assert_eq!(launch(stream, 1, 32, 128, stream, data), INVALID_HANDLE);
        // The context is none the worse for it, and what was refused is allowed once asked for.
        ok!(cuFuncSetAttribute(tile, 8, 100 << 10));
        assert_eq!(launch(tile, 1, 1024, 100 << 10, stream, data), 0);
        ok!(cuStreamSynchronize(stream));
        assert_eq!(read(data, 1024)[1023].to_bits(), 1023);
    });
    let lines = lines(&stderr);
    assert_eq!(lines.len(), 8, "{stderr}");
    assert!(
        lines
            .iter()
            .all(|l| l.contains(": tile: ") || l.contains(": scale: "))
    );
    assert!(lines[0].contains("0 x 1 x 1 blocks"), "{}", lines[0]);
    assert!(lines[4].contains("49153 bytes"), "{}", lines[4]);
    assert!(lines[7].contains("parameter 0, data"), "{}", lines[7]);
}

/// What `scale` or `race` does wrong, by its code and words; and that the context is spoiled.
fn fault(code: u32, expected: &[&str], wrong: impl FnOnce(Handle) -> u32) {
    start();
    let stream = stream(NON_BLOCKING);
    let plain = words(code);
    let healthy = buffer(4);
    assert_eq!(wrong(stream), 0);
    let mut word = 0u32;
    ok!(cuMemcpyDtoHAsync_v2(
        (&raw mut word).cast(),
        healthy,
        4,
        stream
    ));
    assert_eq!(call!(cuStreamSynchronize(stream)), code);
    // What came after it was not done.
    assert_eq!(word, u32::MAX);
    let told = words(code);
    assert!(!told.contains('\n'));
    for part in expected {
        assert!(told.contains(part), "{told}");
    }
    // From now on, everything answers with it.
    let mut address = 0;
    assert_eq!(call!(cuMemAlloc_v2(&mut address, 4)), code);
    assert_eq!(call!(cuMemFree_v2(healthy)), code);
    assert_eq!(call!(cuStreamSynchronize(stream)), code);
    assert_eq!(call!(cuCtxSynchronize()), code);
    assert_eq!(call!(cuEventCreate(&mut null_mut(), 0)), code);
    // Until the context is given up.
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    start();
    assert_eq!(words(code), plain);
    ok!(cuMemAlloc_v2(&mut address, 4));
    ok!(cuCtxSynchronize());
}

/// That a fault was told once, and is the only thing that was.
fn told_once(stderr: &str, kernel: &str) {
    let lines = lines(stderr);
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(lines[0].contains(kernel), "{stderr}");
}

#[test]
fn an_access_out_of_bounds_spoils_the_context() {
    let stderr = alone("an_access_out_of_bounds_spoils_the_context", &[], || {
        let line = 1 + PTX
            .lines()
            .position(|l| l.contains("ld.global.f32"))
            .unwrap();
        let line = format!("line {line}");
        fault(
            ILLEGAL_ADDRESS,
            &["out of bounds: scale", &line, "data + 24"],
            |stream| scale(function("scale"), floats(&[1.0; 6]), 7, 2.0, stream),
        );
    });
    told_once(&stderr, "scale");
}

#[test]
fn a_misaligned_access_spoils_the_context() {
    let stderr = alone("a_misaligned_access_spoils_the_context", &[], || {
        fault(MISALIGNED_ADDRESS, &["misaligned: scale"], |stream| {
            scale(function("scale"), floats(&[1.0; 6]) + 2, 1, 2.0, stream)
        });
    });
    told_once(&stderr, "scale");
}

#[test]
fn a_race_spoils_the_context() {
    let stderr = alone("a_race_spoils_the_context", &[], || {
        fault(LAUNCH_FAILED, &["race: race", "st.global.u32"], |stream| {
            launch(function("race"), 1, 2, 0, stream, buffer(4))
        });
    });
    told_once(&stderr, "race");
}

#[test]
fn without_deferral_the_launch_itself_fails() {
    let environment = [("PTX_EMULATOR_STREAMS", "immediate")];
    let stderr = alone(
        "without_deferral_the_launch_itself_fails",
        &environment,
        || {
            start();
            let stream = stream(NON_BLOCKING);
            let data = floats(&[1.0; 4]);
            let function = function("scale");
            assert_eq!(scale(function, data, 4, 2.0, stream), 0);
            let mut now = [0f32; 4];
            ok!(cuMemcpyDtoHAsync_v2(
                now.as_mut_ptr().cast(),
                data,
                16,
                stream
            ));
            assert_eq!(now, [2.0; 4]);
            assert_eq!(scale(function, data, 5, 2.0, stream), ILLEGAL_ADDRESS);
            assert_eq!(scale(function, data, 4, 2.0, stream), ILLEGAL_ADDRESS);
        },
    );
    told_once(&stderr, "scale");
}

#[test]
fn a_host_that_does_not_wait_gets_nothing() {
    alone("a_host_that_does_not_wait_gets_nothing", &[], || {
        start();
        let stream = stream(NON_BLOCKING);
        let data = floats(&[1.0; 4]);
        assert_eq!(scale(function("scale"), data, 4, 2.0, stream), 0);
        let mut result = [0f32; 4];
        ok!(cuMemcpyDtoHAsync_v2(
            result.as_mut_ptr().cast(),
            data,
            16,
            stream
        ));
        assert!(result.iter().all(|r| r.is_nan()));
        // A copy on the null stream waits for blocking streams alone.
        assert_eq!(read(data, 4), [1.0; 4]);
        ok!(cuStreamSynchronize(stream));
        assert_eq!(result, [2.0; 4]);
    });
}

#[test]
fn freeing_and_unloading_wait_for_the_device() {
    alone("freeing_and_unloading_wait_for_the_device", &[], || {
        start();
        let stream = stream(NON_BLOCKING);
        let (module, data, spare) = (module(), floats(&[1.0; 4]), buffer(4));
        let function = function_of(module, "scale");
        let mut locked = null_mut();
        ok!(cuMemAllocHost_v2(&mut locked, 4));
        let mut result = [0f32; 4];
        for (i, expected) in [2.0, 4.0, 8.0].into_iter().enumerate() {
            assert_eq!(scale(function, data, 4, 2.0, stream), 0);
            ok!(cuMemcpyDtoHAsync_v2(
                result.as_mut_ptr().cast(),
                data,
                16,
                stream
            ));
            match i {
                0 => ok!(cuMemFree_v2(spare)),
                1 => ok!(cuMemFreeHost(locked)),
                _ => ok!(cuModuleUnload(module)),
            }
            assert_eq!(result, [expected; 4]);
        }
    });
}

#[test]
fn a_source_that_changes_too_early_is_a_fault() {
    let stderr = alone("a_source_that_changes_too_early_is_a_fault", &[], || {
        start();
        let stream = stream(NON_BLOCKING);
        let data = buffer(16);
        let mut source = [1f32; 4];
        ok!(cuMemcpyHtoDAsync_v2(
            data,
            source.as_ptr().cast(),
            16,
            stream
        ));
        ok!(cuStreamSynchronize(stream));
        source[2] = 3.0;
        ok!(cuMemcpyHtoDAsync_v2(
            data,
            source.as_ptr().cast(),
            16,
            stream
        ));
        // Not a change that counts: the compiler must not drop it.
        std::hint::black_box(&mut source)[2] = 4.0;
        assert_eq!(call!(cuStreamSynchronize(stream)), LAUNCH_FAILED);
        assert!(words(LAUNCH_FAILED).contains("16 bytes of host memory"));
    });
    told_once(&stderr, "copying to the device");
}

#[test]
fn the_null_stream_waits_for_blocking_streams() {
    alone("the_null_stream_waits_for_blocking_streams", &[], || {
        start();
        let stream = stream(BLOCKING);
        let data = floats(&[1.0; 4]);
        let function = function("scale");
        assert_eq!(scale(function, data, 4, 2.0, stream), 0);
        assert_eq!(scale(function, data, 4, 3.0, null_mut()), 0);
        assert_eq!(scale(function, data, 4, 5.0, stream), 0);
        assert_eq!(read(data, 4), [30.0; 4]);
        // The end of a stream does not lose its work.
        assert_eq!(scale(function, data, 4, 0.5, stream), 0);
        ok!(cuStreamDestroy_v2(stream));
        assert_eq!(read(data, 4), [15.0; 4]);
        assert_eq!(call!(cuStreamSynchronize(stream)), INVALID_HANDLE);
    });
}

#[test]
fn streams_wait_for_events() {
    for seed in ["0", "1", "2", "3", "4", "5"] {
        alone(
            "streams_wait_for_events",
            &[("PTX_EMULATOR_SEED", seed)],
            || {
                start();
                let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
                let (data, copied) = (floats(&[1.0; 4]), event());
                let source = [8f32; 4];
                // a: copy, mark; b: scale after the mark, mark; a: scale again after that mark.
                ok!(cuMemcpyHtoDAsync_v2(data, source.as_ptr().cast(), 16, a));
                ok!(cuEventRecord(copied, a));
                ok!(cuStreamWaitEvent(b, copied, 0));
                let function = function("scale");
                assert_eq!(scale(function, data, 4, 0.5, b), 0);
                // A recorded anew event: earlier waits are about the earlier recording.
                ok!(cuEventRecord(copied, b));
                ok!(cuStreamWaitEvent(a, copied, 0));
                let mut result = [0f32; 4];
                ok!(cuMemcpyDtoHAsync_v2(
                    result.as_mut_ptr().cast(),
                    data,
                    16,
                    a
                ));
                ok!(cuEventDestroy_v2(copied));
                ok!(cuStreamSynchronize(a));
                assert_eq!(result, [4.0; 4]);
            },
        );
    }
}

#[test]
fn events_mark_points_in_time() {
    alone("events_mark_points_in_time", &[], || {
        start();
        let stream = stream(NON_BLOCKING);
        let (start, end, never) = (event(), event(), event());
        let data = floats(&[1.0; 32]);
        let mut time = -1.0;
        ok!(cuEventQuery(start)); // never recorded
        assert_eq!(
            call!(cuEventElapsedTime(&mut time, start, end)),
            INVALID_HANDLE
        );
        ok!(cuEventRecord(start, stream));
        assert_eq!(scale(function("scale"), data, 32, 2.0, stream), 0);
        ok!(cuEventRecord(end, stream));
        assert_eq!(call!(cuEventElapsedTime(&mut time, start, end)), NOT_READY);
        // Asking often enough is a way to wait, too.
        let mut asked = 0;
        while call!(cuEventQuery(end)) != 0 {
            asked += 1;
            assert!(asked < 10);
        }
        assert!(asked > 0);
        ok!(cuEventSynchronize(end));
        ok!(cuStreamQuery(stream));
        ok!(cuEventElapsedTime(&mut time, start, end));
        assert!(time > 0.0);
        let mut back = 0.0;
        ok!(cuEventElapsedTime(&mut back, end, start));
        assert_eq!(back, -time);
        assert_eq!(
            call!(cuEventElapsedTime(&mut time, start, never)),
            INVALID_HANDLE
        );
        ok!(cuEventDestroy_v2(end));
        assert_eq!(call!(cuEventRecord(end, stream)), INVALID_HANDLE);

        // Waiting for an event is waiting for what comes before it.
        let again = event();
        ok!(cuEventRecord(start, stream));
        ok!(cuEventRecord(again, stream));
        ok!(cuEventSynchronize(again));
        ok!(cuEventElapsedTime(&mut time, start, again));

        let mut untimed = null_mut();
        ok!(cuEventCreate(&mut untimed, 2));
        ok!(cuEventRecord(untimed, stream));
        ok!(cuEventSynchronize(untimed));
        assert_eq!(
            call!(cuEventElapsedTime(&mut time, start, untimed)),
            INVALID_HANDLE
        );
    });
}

const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

fn capturing(stream: Handle) -> u32 {
    let mut status = 9;
    ok!(cuStreamIsCapturing(stream, &mut status));
    status
}

#[test]
fn captured_work_is_replayed() {
    alone("captured_work_is_replayed", &[], || {
        start();
        let stream = stream(NON_BLOCKING);
        let module = module();
        let function = function_of(module, "scale");
        let (data, copy) = (floats(&[1.0; 4]), floats(&[0.0; 4]));
        ok!(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
        assert_eq!(capturing(stream), 1);
        assert_eq!(scale(function, data, 4, 2.0, stream), 0);
        let mut result = [0f32; 4];
        ok!(cuMemcpyDtoHAsync_v2(
            result.as_mut_ptr().cast(),
            data,
            16,
            stream
        ));
        let mut graph = null_mut();
        ok!(cuStreamEndCapture(stream, &mut graph));
        assert_eq!(capturing(stream), 0);
        let mut nodes = 0;
        ok!(cuGraphGetNodes(graph, null_mut(), &mut nodes));
        assert_eq!(nodes, 2);
        let mut executable = null_mut();
        ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        ok!(cuGraphDestroy(graph));
        assert_eq!(call!(cuGraphDestroy(graph)), INVALID_HANDLE);
        ok!(cuStreamSynchronize(stream));
        assert_eq!((result, read(data, 4)), ([0.0; 4], vec![1.0; 4])); // nothing has run
        for expected in [2.0, 4.0, 8.0] {
            ok!(cuGraphLaunch(executable, stream));
            ok!(cuStreamSynchronize(stream));
            assert_eq!(result, [expected; 4]);
        }
        // Between other work, in order.
        ok!(cuMemsetD32Async(data, 3f32.to_bits(), 4, stream));
        ok!(cuGraphLaunch(executable, stream));
        assert_eq!(scale(function, data, 4, 10.0, stream), 0);
        ok!(cuStreamSynchronize(stream));
        assert_eq!((result, read(data, 4)), ([6.0; 4], vec![60.0; 4]));
        assert_eq!(read(copy, 4), [0.0; 4]);
        ok!(cuModuleUnload(module));
        assert_eq!(call!(cuGraphLaunch(executable, stream)), INVALID_HANDLE);
        ok!(cuGraphExecDestroy(executable));
        assert_eq!(call!(cuGraphLaunch(executable, stream)), INVALID_HANDLE);
    });
}

#[test]
fn a_graph_that_outlives_its_memory_is_found_out() {
    let stderr = alone("a_graph_that_outlives_its_memory_is_found_out", &[], || {
        start();
        let stream = stream(NON_BLOCKING);
        let data = floats(&[1.0; 4]);
        ok!(cuStreamBeginCapture_v2(stream, RELAXED));
        assert_eq!(scale(function("scale"), data, 4, 2.0, stream), 0);
        let (mut graph, mut executable) = (null_mut(), null_mut());
        ok!(cuStreamEndCapture(stream, &mut graph));
        ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        ok!(cuMemFree_v2(data));
        buffer(16);
        ok!(cuGraphLaunch(executable, stream));
        assert_eq!(call!(cuStreamSynchronize(stream)), ILLEGAL_ADDRESS);
    });
    told_once(&stderr, "scale");
}

#[test]
fn captures_fork_and_join() {
    for seed in ["0", "1", "2", "3", "4", "5"] {
        alone(
            "captures_fork_and_join",
            &[("PTX_EMULATOR_SEED", seed)],
            || {
                start();
                let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
                let function = function("scale");
                let (left, right) = (floats(&[1.0; 4]), floats(&[1.0; 4]));
                let (fork, join) = (event(), event());
                let mut result = [0f32; 8];
                ok!(cuStreamBeginCapture_v2(a, GLOBAL));
                ok!(cuMemsetD32Async(left, 2f32.to_bits(), 4, a));
                ok!(cuMemsetD32Async(right, 3f32.to_bits(), 4, a));
                ok!(cuEventRecord(fork, a));
                ok!(cuStreamWaitEvent(b, fork, 0));
                assert_eq!(capturing(b), 1);
                assert_eq!(scale(function, left, 4, 10.0, a), 0);
                assert_eq!(scale(function, right, 4, 10.0, b), 0);
                ok!(cuEventRecord(join, b));
                ok!(cuStreamWaitEvent(a, join, 0));
                ok!(cuMemcpyDtoHAsync_v2(
                    result.as_mut_ptr().cast(),
                    left,
                    16,
                    a
                ));
                let half = result[4..].as_mut_ptr();
                ok!(cuMemcpyDtoHAsync_v2(half.cast(), right, 16, a));
                let (mut graph, mut executable) = (null_mut(), null_mut());
                ok!(cuStreamEndCapture(a, &mut graph));
                assert_eq!((capturing(a), capturing(b)), (0, 0));
                ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
                ok!(cuGraphLaunch(executable, b));
                ok!(cuStreamSynchronize(b));
                assert_eq!(result, [20.0, 20.0, 20.0, 20.0, 30.0, 30.0, 30.0, 30.0]);
            },
        );
    }
}

#[test]
fn captures_forbid_what_they_must() {
    alone("captures_forbid_what_they_must", &[], || {
        start();
        let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        let blocking = stream(BLOCKING);
        let data = buffer(16);
        let mark = event();
        let mut graph = null_mut();
        let mut host = [0f32; 4];
        let host = host.as_mut_ptr().cast::<c_void>();

        // Each of these ends the capture.
        let forbidden: [&dyn Fn() -> u32; 8] = [
            &|| call!(cuMemAlloc_v2(&mut 0, 16)),
            &|| call!(cuMemFree_v2(data)),
            &|| call!(cuMemcpyDtoH_v2(host, data, 16)),
            &|| call!(cuModuleLoadData(&mut null_mut(), c"".as_ptr())),
            &|| call!(cuStreamSynchronize(a)),
            &|| call!(cuStreamQuery(a)),
            &|| call!(cuCtxSynchronize()),
            &|| call!(cuMemFreeAsync(data, a)),
        ];
        for (i, forbidden) in forbidden.iter().enumerate() {
            ok!(cuStreamBeginCapture_v2(a, GLOBAL));
            assert_eq!(forbidden(), CAPTURE_UNSUPPORTED, "{i}");
            assert_eq!(capturing(a), 2, "{i}");
            let late = call!(cuMemsetD32Async(data, 0, 4, a));
            assert_eq!(late, CAPTURE_INVALIDATED, "{i}");
            let ended = call!(cuStreamEndCapture(a, &mut graph));
            assert_eq!((ended, capturing(a)), (CAPTURE_INVALIDATED, 0), "{i}");
        }
        // Memory is still there.
        ok!(cuMemcpyHtoD_v2(data, host, 16));

        // Another thread is bound by a global capture, but not by one of this thread, nor if it says so.
        for (mode, expected) in [
            (GLOBAL, CAPTURE_UNSUPPORTED),
            (THREAD_LOCAL, 0),
            (RELAXED, 0),
        ] {
            ok!(cuStreamBeginCapture_v2(a, mode));
            let mut context = null_mut();
            ok!(cuCtxGetCurrent(&mut context));
            let context = context.addr();
            let code = std::thread::spawn(move || {
                ok!(cuCtxSetCurrent(std::ptr::without_provenance_mut(context)));
                call!(cuMemAlloc_v2(&mut 0, 16))
            });
            assert_eq!(code.join().unwrap(), expected, "mode {mode}");
            let _ = call!(cuStreamEndCapture(a, &mut graph));
        }
        ok!(cuStreamBeginCapture_v2(a, GLOBAL));
        let mut mode = RELAXED;
        ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
        assert_eq!(mode, GLOBAL);
        ok!(cuMemAlloc_v2(&mut 0, 16));
        ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
        ok!(cuStreamEndCapture(a, &mut graph));

        // The other stream has work that nobody waits for.
        ok!(cuStreamBeginCapture_v2(a, GLOBAL));
        ok!(cuEventRecord(mark, a));
        ok!(cuStreamWaitEvent(b, mark, 0));
        assert_eq!(call!(cuEventQuery(mark)), CAPTURED_EVENT);
        assert_eq!(
            call!(cuStreamEndCapture(a, &mut graph)),
            CAPTURE_INVALIDATED
        );
        ok!(cuStreamBeginCapture_v2(a, GLOBAL));
        ok!(cuEventRecord(mark, a));
        ok!(cuStreamWaitEvent(b, mark, 0));
        ok!(cuMemsetD32Async(data, 0, 4, b));
        assert_eq!(call!(cuStreamEndCapture(a, &mut graph)), CAPTURE_UNJOINED);
        assert!(graph.is_null());

        // An event from outside; the null stream, which would wait for a stream that is being captured.
        ok!(cuEventRecord(mark, b));
        ok!(cuStreamBeginCapture_v2(a, GLOBAL));
        assert_eq!(call!(cuStreamWaitEvent(a, mark, 0)), CAPTURE_ISOLATION);
        let _ = call!(cuStreamEndCapture(a, &mut graph));
        ok!(cuStreamBeginCapture_v2(blocking, RELAXED));
        let launched = call!(cuMemsetD32Async(data, 0, 4, null_mut()));
        assert_eq!(launched, CAPTURE_IMPLICIT);
        assert_eq!(
            call!(cuStreamEndCapture(blocking, &mut graph)),
            CAPTURE_INVALIDATED
        );
        let null = call!(cuStreamBeginCapture_v2(null_mut(), GLOBAL));
        assert_eq!(null, CAPTURE_UNSUPPORTED);

        // A capture ends where it began, and begins once.
        ok!(cuStreamBeginCapture_v2(a, GLOBAL));
        assert_eq!(call!(cuStreamBeginCapture_v2(a, GLOBAL)), ILLEGAL_STATE);
        ok!(cuEventRecord(mark, a));
        ok!(cuStreamWaitEvent(b, mark, 0));
        assert_eq!(call!(cuStreamEndCapture(b, &mut graph)), CAPTURE_UNMATCHED);
        assert_eq!(
            call!(cuStreamEndCapture(a, &mut graph)),
            CAPTURE_INVALIDATED
        );
        assert_eq!(call!(cuStreamEndCapture(a, &mut graph)), ILLEGAL_STATE);
        // The end of the context is the end of its captures.
        ok!(cuStreamBeginCapture_v2(a, GLOBAL));
        ok!(cuDevicePrimaryCtxRelease_v2(0));
        start();
        buffer(16);
    });
}

#[test]
fn launches_are_counted() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("launches_are_counted.csv");
    if std::env::var(CHILD).is_err() {
        let _ = std::fs::remove_file(&file);
    }
    let environment = [("PTX_EMULATOR_COUNTS", file.to_str().unwrap())];
    for _ in 0..2 {
        alone("launches_are_counted", &environment, || {
            start();
            let module = module();
            let data = floats(&[1.0; 32]);
            assert_eq!(
                scale(function_of(module, "scale"), data, 20, 2.0, null_mut()),
                0
            );
            assert_eq!(
                launch(function_of(module, "tile"), 1, 32, 128, null_mut(), data),
                0
            );
        });
    }
    let mut rows = csv::Reader::from_path(&file).unwrap();
    let header = rows.headers().unwrap().clone();
    let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
    let cell = |row: usize, column: &str| {
        let column = header.iter().position(|c| c == column).unwrap();
        rows[row][column].to_string()
    };
    let entries: Vec<_> = (0..rows.len()).map(|i| cell(i, "entry")).collect();
    assert_eq!(entries, ["scale", "tile", "scale", "tile"]);
    let expected = [
        (0, "block_x", 32),
        (0, "global_bytes_read", 20 * 4),
        (0, "global_bytes_written", 20 * 4),
        (0, "global_requests", 2),
        (0, "global_sectors", 2 * 3), // 80 bytes
        (0, "shared_bytes_read", 0),
        (1, "dynamic_shared", 128),
        (1, "instructions", 32 * 9),
        (1, "warp_instructions", 9),
        (1, "shared_bytes_read", 32 * 4),
        (1, "shared_wavefronts", 2),
        (1, "global_sectors", 4),
        (1, "matrix_multiply_adds", 0),
    ];
    for (row, column, value) in expected {
        assert_eq!(
            cell(row, column),
            value.to_string(),
            "{column} of {}",
            entries[row]
        );
    }
    assert_eq!(rows[0], rows[2]);
    assert_eq!(rows[1], rows[3]);
}

#[test]
fn a_file_of_counts_that_cannot_be_written_is_named_once() {
    let environment = [("PTX_EMULATOR_COUNTS", "/nonexistent/counts.csv")];
    let stderr = alone(
        "a_file_of_counts_that_cannot_be_written_is_named_once",
        &environment,
        || {
            start();
            let data = floats(&[1.0; 4]);
            let function = function("scale");
            for _ in 0..2 {
                assert_eq!(scale(function, data, 4, 2.0, null_mut()), 0);
            }
            assert_eq!(read(data, 4), [4.0; 4]);
        },
    );
    told_once(&stderr, "/nonexistent/counts.csv");
}

#[test]
fn reasons_are_given_on_request() {
    let stderr = alone(
        "reasons_are_given_on_request",
        &[("PTX_EMULATOR_VERBOSE", "1")],
        || {
            start();
            assert_eq!(call!(cuMemFree_v2(77)), INVALID_VALUE);
        },
    );
    told_once(
        &stderr,
        "cuMemFree_v2: CUDA_ERROR_INVALID_VALUE: no device memory begins at 0x4d",
    );
}

#[test]
fn stubs_answer_and_name_themselves_once() {
    let stderr = alone("stubs_answer_and_name_themselves_once", &[], || {
        for _ in 0..2 {
            assert_eq!(
                call!(cuMemPoolCreate(null_mut(), std::ptr::null())),
                NOT_SUPPORTED
            );
        }
    });
    told_once(&stderr, "cuMemPoolCreate");
}

/// The shared object that was built along with this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folders = test.ancestors().skip(1).take(2);
    let mut candidates = folders.map(|folder| folder.join("libptx_emulator.so"));
    candidates
        .find(|file| file.is_file())
        .expect("cargo builds the shared object before it runs this test")
}

/// The source of the bindings, if Cargo has it.
fn bindings() -> Result<String, String> {
    // Offline, and without packages for other systems, which may not have been downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .args(["--filter-platform", &platform, "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .map_err(|e| e.to_string())?;
    if !metadata.status.success() {
        let why = String::from_utf8_lossy(&metadata.stderr);
        return Err(format!(
            "cargo metadata: {}",
            why.lines().next().unwrap_or_default()
        ));
    }
    let text = String::from_utf8_lossy(&metadata.stdout);
    let manifest = text
        .split("\"manifest_path\":\"")
        .filter_map(|rest| rest.split('"').next())
        .find(|path| path.contains("/cudarc-0.19"))
        .ok_or("cargo metadata does not know cudarc 0.19")?;
    let source = Path::new(manifest).with_file_name("src/driver/sys/mod.rs");
    std::fs::read_to_string(&source).map_err(|e| format!("{}: {e}", source.display()))
}

/// The functions of the driver that these bindings know for CUDA 12.9.
fn bound(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut condition = "";
    for line in source.lines().map(str::trim) {
        let declared = line
            .strip_prefix("pub unsafe fn cu")
            .filter(|_| line.contains("-> CUresult"));
        if let Some(declared) = declared
            && (condition.is_empty() || condition.contains("\"cuda-12090\""))
        {
            let name = declared.split('(').next().unwrap_or_default();
            names.push(format!("cu{name}"));
        }
        condition = if line.starts_with("#[cfg(") { line } else { "" };
    }
    names.sort();
    names.dedup();
    names
}

#[test]
fn every_function_of_the_bindings_exists() {
    let file = CString::new(library().to_str().unwrap()).unwrap();
    // SAFETY: loads the library under test, which has no initialisers.
    let library = unsafe { dlopen(file.as_ptr(), 2) };
    assert!(!library.is_null());
    let find = |name: &str| {
        let name = CString::new(name).unwrap();
        // SAFETY: the library is loaded, and the name is zero-terminated.
        unsafe { dlsym(library, name.as_ptr()) }
    };
    assert!(find("cuNoSuchFunction").is_null());
    for stub in STUBS {
        assert!(!find(stub).is_null(), "{stub}");
    }
    assert!(STUBS.is_sorted());

    let source = match bindings() {
        Ok(source) => source,
        Err(why) => {
            // Straight to stderr, which the test harness does not capture.
            let line = format!("skipped: the functions of cudarc ({why})\n");
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).ok();
            return;
        }
    };
    let bound = bound(&source);
    // The shape of the source is cudarc's affair: if it changes, this reading of it must not find little and be content.
    assert!(bound.len() > 400, "{} functions", bound.len());
    for name in &bound {
        assert!(
            !find(name).is_null(),
            "{name} is not exported: it belongs into the list of stubs"
        );
    }
    for stub in STUBS {
        assert!(
            bound.iter().any(|name| name == stub),
            "{stub} is a stub that nobody asks for"
        );
    }
}

#[test]
fn the_script_says_how_it_is_used() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../emulated");
    let without = Command::new(&script).output().unwrap();
    assert_eq!(without.status.code(), Some(2));
    let stderr = String::from_utf8(without.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("COMMAND") && without.stdout.is_empty(),
        "{stderr}"
    );
    let help = Command::new(&script).arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(
        String::from_utf8(help.stdout)
            .unwrap()
            .contains("PTX_EMULATOR_COUNTS")
    );
}
