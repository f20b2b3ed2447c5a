// All tests of the CUDA backend in one file, so that nvcc compiles each kernel once. What they include stands before
// the namespaces that keep their helpers apart.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include "../paths.hpp"
#include "../support.hpp"
#include "elcrec/backend/cuda.hpp"
#include "elcrec/elcrec.hpp"
#include "elcrec/encoder/check_encoder_gradients.hpp"
#include "elcrec/nn/check_gradients.hpp"

namespace backend_tests {
#include "../test_backend.cpp"
}
#undef EVERY_BACKEND
namespace components_tests {
#include "../test_components.cpp"
}
#undef EVERY_BACKEND
namespace golden_tests {
#include "../test_golden.cpp"
}
namespace training_tests {
#include "../cuda/test_training.cpp"
}
