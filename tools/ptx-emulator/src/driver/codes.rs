//! Result codes: numbers, names, and the words that go with them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What every driver function returns.
pub(super) type CUresult = u32;

pub(super) const SUCCESS: CUresult = 0;

/// Why a call did not succeed. The caller gets the code; the reason is for people (`PTX_EMULATOR_VERBOSE`).
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub code: CUresult,
    pub why: Cow<'static, str>,
}

pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// A failure with a reason.
pub(super) fn fail<T>(code: CUresult, why: impl Into<Cow<'static, str>>) -> Outcome<T> {
    Err(Failure {
        code,
        why: why.into(),
    })
}

macro_rules! codes {
    ($($name:ident = $value:literal)*) => {
        $(#[allow(dead_code)] pub(super) const $name: CUresult = $value;)*

        const NAMES: &[(CUresult, &str)] = &[
            (SUCCESS, "CUDA_SUCCESS"),
            $(($name, concat!("CUDA_ERROR_", stringify!($name))),)*
        ];
    };
}

codes! {
    INVALID_VALUE = 1
    OUT_OF_MEMORY = 2
    NOT_INITIALIZED = 3
    DEINITIALIZED = 4
    PROFILER_DISABLED = 5
    PROFILER_NOT_INITIALIZED = 6
    PROFILER_ALREADY_STARTED = 7
    PROFILER_ALREADY_STOPPED = 8
    STUB_LIBRARY = 34
    DEVICE_UNAVAILABLE = 46
    NO_DEVICE = 100
    INVALID_DEVICE = 101
    DEVICE_NOT_LICENSED = 102
    INVALID_IMAGE = 200
    INVALID_CONTEXT = 201
    CONTEXT_ALREADY_CURRENT = 202
    MAP_FAILED = 205
    UNMAP_FAILED = 206
    ARRAY_IS_MAPPED = 207
    ALREADY_MAPPED = 208
    NO_BINARY_FOR_GPU = 209
    ALREADY_ACQUIRED = 210
    NOT_MAPPED = 211
    NOT_MAPPED_AS_ARRAY = 212
    NOT_MAPPED_AS_POINTER = 213
    ECC_UNCORRECTABLE = 214
    UNSUPPORTED_LIMIT = 215
    CONTEXT_ALREADY_IN_USE = 216
    PEER_ACCESS_UNSUPPORTED = 217
    INVALID_PTX = 218
    INVALID_GRAPHICS_CONTEXT = 219
    NVLINK_UNCORRECTABLE = 220
    JIT_COMPILER_NOT_FOUND = 221
    UNSUPPORTED_PTX_VERSION = 222
    JIT_COMPILATION_DISABLED = 223
    UNSUPPORTED_EXEC_AFFINITY = 224
    UNSUPPORTED_DEVSIDE_SYNC = 225
    CONTAINED = 226
    INVALID_SOURCE = 300
    FILE_NOT_FOUND = 301
    SHARED_OBJECT_SYMBOL_NOT_FOUND = 302
    SHARED_OBJECT_INIT_FAILED = 303
    OPERATING_SYSTEM = 304
    INVALID_HANDLE = 400
    ILLEGAL_STATE = 401
    LOSSY_QUERY = 402
    NOT_FOUND = 500
    NOT_READY = 600
    ILLEGAL_ADDRESS = 700
    LAUNCH_OUT_OF_RESOURCES = 701
    LAUNCH_TIMEOUT = 702
    LAUNCH_INCOMPATIBLE_TEXTURING = 703
    PEER_ACCESS_ALREADY_ENABLED = 704
    PEER_ACCESS_NOT_ENABLED = 705
    PRIMARY_CONTEXT_ACTIVE = 708
    CONTEXT_IS_DESTROYED = 709
    ASSERT = 710
    TOO_MANY_PEERS = 711
    HOST_MEMORY_ALREADY_REGISTERED = 712
    HOST_MEMORY_NOT_REGISTERED = 713
    HARDWARE_STACK_ERROR = 714
    ILLEGAL_INSTRUCTION = 715
    MISALIGNED_ADDRESS = 716
    INVALID_ADDRESS_SPACE = 717
    INVALID_PC = 718
    LAUNCH_FAILED = 719
    COOPERATIVE_LAUNCH_TOO_LARGE = 720
    TENSOR_MEMORY_LEAK = 721
    NOT_PERMITTED = 800
    NOT_SUPPORTED = 801
    SYSTEM_NOT_READY = 802
    SYSTEM_DRIVER_MISMATCH = 803
    COMPAT_NOT_SUPPORTED_ON_DEVICE = 804
    MPS_CONNECTION_FAILED = 805
    MPS_RPC_FAILURE = 806
    MPS_SERVER_NOT_READY = 807
    MPS_MAX_CLIENTS_REACHED = 808
    MPS_MAX_CONNECTIONS_REACHED = 809
    MPS_CLIENT_TERMINATED = 810
    CDP_NOT_SUPPORTED = 811
    CDP_VERSION_MISMATCH = 812
    STREAM_CAPTURE_UNSUPPORTED = 900
    STREAM_CAPTURE_INVALIDATED = 901
    STREAM_CAPTURE_MERGE = 902
    STREAM_CAPTURE_UNMATCHED = 903
    STREAM_CAPTURE_UNJOINED = 904
    STREAM_CAPTURE_ISOLATION = 905
    STREAM_CAPTURE_IMPLICIT = 906
    CAPTURED_EVENT = 907
    STREAM_CAPTURE_WRONG_THREAD = 908
    TIMEOUT = 909
    GRAPH_EXEC_UPDATE_FAILURE = 910
    EXTERNAL_DEVICE = 911
    INVALID_CLUSTER_SIZE = 912
    FUNCTION_NOT_LOADED = 913
    INVALID_RESOURCE_TYPE = 914
    INVALID_RESOURCE_CONFIGURATION = 915
    KEY_ROTATION = 916
    UNKNOWN = 999
}

/// The name of a code, for `cuGetErrorName`.
pub(super) fn name(code: CUresult) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|&&(value, _)| value == code)
        .map(|&(_, name)| name)
}

/// Zero-terminated texts that callers hold on to, which is why none is ever freed: one per code, and one per fault.
struct Texts {
    names: BTreeMap<CUresult, &'static CStr>,
    plain: BTreeMap<CUresult, &'static CStr>,
    /// What happened, in place of the plain words.
    told: BTreeMap<CUresult, &'static CStr>,
}

static TEXTS: Mutex<Texts> = Mutex::new(Texts {
    names: BTreeMap::new(),
    plain: BTreeMap::new(),
    told: BTreeMap::new(),
});

fn texts() -> MutexGuard<'static, Texts> {
    TEXTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leak(text: &str) -> &'static CStr {
    let text: String = text.chars().filter(|&c| c != '\0').collect();
    Box::leak(CString::new(text).unwrap_or_default().into_boxed_c_str())
}

/// The name of a code as C sees it.
pub(super) fn c_name(code: CUresult) -> Option<&'static CStr> {
    let name = name(code)?;
    Some(texts().names.entry(code).or_insert_with(|| leak(name)))
}

/// The words for a code as C sees them: the last fault with that code, or its name in plain words.
pub(super) fn c_words(code: CUresult) -> Option<&'static CStr> {
    let name = name(code)?;
    let mut texts = texts();
    if let Some(&told) = texts.told.get(&code) {
        return Some(told);
    }
    let words = || {
        let words = name.trim_start_matches("CUDA_ERROR_");
        leak(
            &words
                .trim_start_matches("CUDA_")
                .to_lowercase()
                .replace('_', " "),
        )
    };
    Some(texts.plain.entry(code).or_insert_with(words))
}

/// From now on these are the words for a code.
pub(super) fn tell(code: CUresult, text: &str) {
    texts().told.insert(code, leak(text));
}

/// The code gets its plain words back.
pub(super) fn untell(code: CUresult) {
    texts().told.remove(&code);
}
