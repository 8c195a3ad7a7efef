//! Kernels that do not end.

use ptx_emulator::Kind::Endless;

use crate::broken;
use crate::common::{Arg, shape};

#[test]
fn a_loop_without_an_end() {
    broken(
        Endless,
        "mov.u32 %r1, 10;
MORE:
    sub.u32 %r1, %r1, 3;                 // broken, here
    sub.u32 %r1, %r1, 2;                 // repaired
    setp.ne.u32 %p, %r1, 0;              // here
    @%p bra MORE;                        // here
    st.global.u32 [%out4], %id;",
    )
    .limit(100_000)
    .says(&["100000 instructions", "PTX_EMULATOR_LIMIT"])
    .gives(0..32);
}

/// One lane waits for a flag that another lane raises only behind a barrier.
#[test]
fn waiting_for_a_flag_that_nobody_raises() {
    broken(
        Endless,
        "mov.u32 %r1, 1;
    setp.eq.u32 %p, %id, 40;
    @%p st.volatile.global.u32 [%in], %r1; // repaired
WAIT:
    ld.volatile.global.u32 %r2, [%in];   // here
    setp.eq.u32 %q, %r2, 0;              // here
    @%q bra WAIT;                        // here
    @%p st.volatile.global.u32 [%in], %r1;
    st.global.u32 [%out4], %r2;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .limit(200_000)
    .says(&["instructions and goes on"])
    .gives([1; 64]);
}

/// A block waits for all blocks to begin: those that run one after the other never do. What the emulator cannot run is
/// reported too, and not waited for.
#[test]
fn a_block_that_waits_for_later_ones() {
    broken(
        Endless,
        "mov.u32 %r3, %nctaid.x;              // broken
    mov.u32 %r3, 1;                      // repaired
    red.global.add.u32 [%in], 1;
WAIT:
    ld.relaxed.gpu.global.u32 %r2, [%in]; // here
    setp.lt.u32 %q, %r2, %r3;            // here
    @%q bra WAIT;                        // here
    st.global.u32 [%out4], %r3;",
    )
    .with(shape(3, 1), Arg::zeros(4), Arg::zeros(12))
    .limit(100_000)
    .says(&["instructions and goes on"])
    .gives([1; 3]);
}
