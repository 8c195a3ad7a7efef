%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// add_rows.wgsl - rows added to rows of f32
// Computes   x[places[i],:] += y[i,:], or x[i,:] += y[i,:] without places; the sums of the latter also rounded to f16
//            (variants `places`, `rounded`)
// Twins      src/ops/add_rows.rs (definition, reference), kernels/add_rows.ptx
// Entry      add_rows
//
// Shapes     y [n, units] f16 or f32 (variant `act`), x [m, units] f32, units of 4 elements; places [n] u32 (absent
//            without `places`); rounded [n, units] f16 (absent without `rounded`)
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing; with places the binding of x begins at row
//            first_row
// Requires   places < m, no two the same (checked on the host)
//
// Launch     ceil(n units / 64) workgroups of 64, spread over x and y; rows whose places are not among first_row ..
//            end_row are passed over
// Mapping    one invocation has 4 elements
// Memory     none
// Sync       none; no two invocations write the same bytes, since places differ
// Limits     none beyond the defaults
//
// Work       4 n units
// Traffic    n units (32 + sizeof(4 of y)) bytes, with rounded 8 n units more, 4 n of places
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   one addition per element; bound in error_bound of the twin
// Edges      n = 0: not launched; NaN stays in its element
struct Params { n: u32, units: u32, first_row: u32, end_row: u32 }
var<immediate> p: Params;

%% set x = 2 if places else 1
${array(0, "y", act, "read", native)}
%% if places
@group(0) @binding(1) var<storage, read> places: array<u32>;
%% endif
${array(x, "x", "f32", "read_write", native)}
%% if rounded
${array(x + 1, "rounded", "f16", "read_write", native)}
%% endif

@compute @workgroup_size(64)
fn add_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.n * p.units {
        return;
    }
%% if places
    let place = places[i / p.units];
    if place < p.first_row || place >= p.end_row {
        return;
    }
    let at = (place - p.first_row) * p.units + i % p.units;
%% else
    let at = i;
%% endif
    let sum = load_x(at) + load_y(i);
    store_x(at, sum);
%% if rounded
    store_rounded(at, sum);
%% endif
}
