#pragma once

// Everything for the CPU.
#include "elcrec/backend/reference.hpp"
#include "elcrec/serve.hpp"
#include "elcrec/train.hpp"
