#pragma once

#include "elcrec/core/error.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/core/types.hpp"
