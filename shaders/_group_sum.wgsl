<#
_group_sum.wgsl - the sum of one value per invocation over a workgroup, the same in every invocation.

`group_sum(subgroups)` declares, for a workgroup of GROUP invocations (a constant of the shader),
  group_sum(value, who) -> f32
and what it needs: 4 * GROUP bytes of workgroup memory and `Who`, which the entry point fills from its built-ins
(`who_inputs` lists them as parameters, `who_value` makes the value). With subgroups: one subgroup sum, two barriers, a
serial sum over the subgroups. Without: a tree with one barrier per halving. May be called any number of times.
#>
%% macro group_sum(subgroups)
struct Who { lane: u32, subgroup: u32, n_subgroups: u32, subgroup_lane: u32 }
var<workgroup> partial: array<f32, GROUP>;
%% if subgroups
fn group_sum(value: f32, who: Who) -> f32 {
    let s = subgroupAdd(value);
    workgroupBarrier(); // partial[] of the previous sum has been read by all
    if who.subgroup_lane == 0u {
        partial[who.subgroup] = s;
    }
    workgroupBarrier(); // every subgroup's sum is in partial[]
    var total = 0.0;
    for (var i = 0u; i < who.n_subgroups; i += 1u) {
        total += partial[i];
    }
    return total;
}
%% else
fn group_sum(value: f32, who: Who) -> f32 {
    workgroupBarrier(); // partial[0] of the previous sum has been read by all
    partial[who.lane] = value;
    workgroupBarrier(); // all values are in partial[]
    for (var width = GROUP / 2u; width > 0u; width /= 2u) {
        if who.lane < width {
            partial[who.lane] += partial[who.lane + width];
        }
        workgroupBarrier(); // this level is summed
    }
    return partial[0];
}
%% endif
%% endmacro
%% macro who_inputs(subgroups)
%% if subgroups
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) n_subgroups: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
%% endif
%% endmacro
%% macro who_value(subgroups)
%% if subgroups
    let who = Who(lane, subgroup, n_subgroups, subgroup_lane);
%% else
    let who = Who(lane, 0u, 1u, lane);
%% endif
%% endmacro
