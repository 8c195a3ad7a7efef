%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// fold.wgsl - the transpose of unfold: what was copied from a pixel, added up
// Computes   dx[r,:] = sum over taps of d_out[q,tap,:], q the pixel that sees r in the direction of the tap, if there is one
//            in the picture
// Twins      src/ops/fold.rs (definition, reference), kernels/fold.ptx
// Entry      fold
//
// Shapes     d_out [n, 9, units], dx [n, units] f16 or f32 (variant `act`), units of 4 elements; neighbours [n] u32 as in
//            unfold.wgsl
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing; the binding of d_out begins at row first_seen, that
//            of dx at row first_row
// Requires   rows first_row to end_row are seen from pixels in the binding of d_out only
//
// Launch     ceil(m units / 64) workgroups of 64, spread over x and y, for the m rows from first_row to end_row
// Mapping    one invocation has 4 elements
// Memory     none
// Sync       none; a sum has one owner
// Limits     none beyond the defaults
//
// Work       9 additions per element
// Traffic    9 elements read for one that is written, 4 n bytes
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   sums in f32 in the order of the taps; bound in error_bound of the twin
// Edges      n = 0: not launched; NaN goes to the pixel that it was copied from
struct Params { units: u32, first_row: u32, end_row: u32, first_seen: u32 }
var<immediate> p: Params;

${array(0, "d_out", act, "read", native)}
@group(0) @binding(1) var<storage, read> neighbours: array<u32>;
${array(2, "dx", act, "read_write", native)}

@compute @workgroup_size(64)
fn fold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= (p.end_row - p.first_row) * p.units {
        return;
    }
    let row = p.first_row + i / p.units;
    let place = neighbours[row];
    let width = place >> 4u;
    var sum = vec4<f32>();
    for (var tap = 0u; tap < 9u; tap += 1u) {
        // Who sees this pixel above it is below.
        let vertical = select(select(0u, 2u, tap < 3u), 1u, tap >= 6u);
        let horizontal = select(select(0u, 8u, tap % 3u == 0u), 4u, tap % 3u == 2u);
        let needed = vertical | horizontal;
        if (place & needed) == needed {
            let seen = row + width + 1u - tap / 3u * width - tap % 3u;
            sum += load_d_out(((seen - p.first_seen) * 9u + tap) * p.units + i % p.units);
        }
    }
    store_dx(i, sum);
}
