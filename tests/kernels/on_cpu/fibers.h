// SPDX-License-Identifier: Apache-2.0
// What fibers.cpp offers to the emulated units, and what it calls of them.
#pragma once

#include <cstddef>
#include <functional>

namespace on_cpu {

int order();                               // in which fibers run
bool skipped(const char* file, int line);  // whether the tests skip this line

// Suspends this fiber until `ready` returns true. `line` is for the message if it never does.
void wait_until(const std::function<bool()>& ready, int line);

// units.cpp: called before a block, if no fiber can run (returns whether something has changed), and after a block.
void start_units(size_t shared);
bool advance_units();
void end_units();

// counting.cpp: called before a launch, before a block, and after a block that stands for `weight` blocks.
void begin_count(const void* kernel, unsigned blocks, unsigned threads);
void begin_count_of_block();
void end_count_of_block(double weight);

}  // namespace on_cpu
