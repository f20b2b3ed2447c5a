#pragma once

#include "elcrec/io/safetensors_reader.hpp"  // IWYU pragma: export
#include "elcrec/io/safetensors_writer.hpp"  // IWYU pragma: export
